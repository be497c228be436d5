"""Short-lived tokens that IamTokenService gives for long-lived credentials: signed, so that nothing is stored."""

from __future__ import annotations

from dataclasses import dataclass

import jwt
from jwt.exceptions import InvalidTokenError

LIFETIME_S = 3600
PREFIX = "t1."
_ISSUER = "dataplane"
_ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A token that was issued. `credential` is what it was given for, as ``token:ID`` or ``key:ID``."""

    subject_id: str
    credential: str
    expires_s: int


class Issuer:
    """Issues and checks tokens under one secret, which every server of the same data folder has."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def issue(
        self, *, subject_id: str, credential: str, now_s: float, lifetime_s: float = LIFETIME_S
    ) -> tuple[str, int]:
        """Return a token and the second since 1970 at which it runs out."""
        expires_s = int(now_s + min(lifetime_s, LIFETIME_S))
        claims = {"iss": _ISSUER, "sub": subject_id, "cred": credential, "iat": int(now_s), "exp": expires_s}
        return PREFIX + jwt.encode(claims, self._secret, algorithm=_ALGORITHM), expires_s

    def check(self, token: str) -> Issued | None:
        """Return what a token says; None when it was not issued here or ran out."""
        if not token.startswith(PREFIX):
            return None
        try:
            claims = jwt.decode(
                token.removeprefix(PREFIX),
                self._secret,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                options={"require": ["iss", "sub", "exp", "iat", "cred"]},
            )
        except InvalidTokenError:
            return None
        return Issued(subject_id=claims["sub"], credential=str(claims["cred"]), expires_s=claims["exp"])
