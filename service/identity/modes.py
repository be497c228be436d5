"""The ways a server can be told to find out who calls: --dev and none, tokens of a file, JSON web tokens."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

import jwt
from jwt.exceptions import InvalidTokenError, PyJWTError

from dataplane.errors import UsageError
from service.auth import EVERYTHING, Caller, Metadata, bearer_token
from service.faults import NotOffered, Unauthenticated
from service.identity import account_jwt
from service.identity.issued import Issuer
from service.identity.policy import Policy
from service.identity.token_file import Credentials
from service.watched_file import WatchedFile

REFUSED = "the token is not accepted here, or ran out: get a new one"
JWT_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by a private key; a secret shared with the server would let the server make tokens."""

SUBJECT_LENGTH_MAX = 100
DEV_TOKEN_LIFETIME_S = 12 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """What IamTokenService answers."""

    token: str
    expires_s: int


class NobodyAuthenticator:
    """`--auth none`, on loopback only: every caller is the same one and may do everything."""

    def authenticate(self, metadata: Metadata) -> Caller:
        """Return the one caller."""
        return Caller("anonymous", EVERYTHING)

    def exchange(self, *, oauth_token: str, signed_jwt: str) -> Exchanged:
        """Return a token that means nothing, for SDKs that ask for one."""
        return _meaningless(oauth_token or signed_jwt)


class DevAuthenticator:
    """`--dev`: any bearer token is accepted and may do everything; the same token is the same subject."""

    def authenticate(self, metadata: Metadata) -> Caller:
        """Return the caller. Raises Unauthenticated without a bearer token."""
        try:
            return Caller(dev_subject(bearer_token(metadata)), EVERYTHING)
        except Unauthenticated as error:
            raise Unauthenticated(f"{error} (with --dev any token will do)") from error

    def exchange(self, *, oauth_token: str, signed_jwt: str) -> Exchanged:
        """Return a token for any credential; the same credential gets the same one, and so stays the same subject."""
        return _meaningless(oauth_token or signed_jwt)


class TokenAuthenticator:
    """`--auth tokens:FILE`: tokens of the file, and the short-lived ones given for them and for service accounts."""

    def __init__(
        self,
        credentials: WatchedFile[Credentials],
        policy: WatchedFile[Policy],
        issuer: Issuer,
        audiences: Callable[[], Collection[str]],
    ) -> None:
        self._credentials = credentials
        self._policy = policy
        self._issuer = issuer
        self._audiences = audiences

    def authenticate(self, metadata: Metadata) -> Caller:
        """Return the caller. Raises Unauthenticated."""
        token = bearer_token(metadata)
        subject_id = self._subject_of(token, self._credentials.get())
        return Caller(subject_id, self._policy.get().grants_of(subject_id))

    def exchange(self, *, oauth_token: str, signed_jwt: str) -> Exchanged:
        """Return a short-lived token for a token of the file, or for the JWT of a service account.

        Raises Unauthenticated when the credential is not accepted.
        """
        credentials, now_s = self._credentials.get(), time.time()
        if signed_jwt:
            return self._for_account(signed_jwt, credentials, now_s)
        entry = credentials.find(oauth_token, now_s=now_s)
        if entry is None:
            raise Unauthenticated(REFUSED)
        left_s = float("inf") if entry.expires_s is None else entry.expires_s - now_s
        token, expires_s = self._issuer.issue(
            subject_id=entry.subject_id, credential=f"token:{entry.id}", now_s=now_s, lifetime_s=left_s
        )
        return Exchanged(token=token, expires_s=expires_s)

    def _for_account(self, signed: str, credentials: Credentials, now_s: float) -> Exchanged:
        key = account_jwt.check(signed, credentials, audiences=self._audiences())
        token, expires_s = self._issuer.issue(subject_id=key.subject_id, credential=f"key:{key.id}", now_s=now_s)
        return Exchanged(token=token, expires_s=expires_s)

    def _subject_of(self, token: str, credentials: Credentials) -> str:
        now_s = time.time()
        entry = credentials.find(token, now_s=now_s)
        if entry is not None:
            return entry.subject_id
        issued = self._issuer.check(token)
        # The credential is looked up again: removing it from the file ends the tokens that were given for it.
        if issued is not None and credentials.holds(issued.credential, subject_id=issued.subject_id, now_s=now_s):
            return issued.subject_id
        raise Unauthenticated(REFUSED)


class JwtAuthenticator:
    """`--auth jwt:FILE`: JSON web tokens of somebody else, checked against the public keys in a JWKS file."""

    def __init__(
        self, keys: WatchedFile[dict[str, jwt.PyJWK]], policy: WatchedFile[Policy], *, issuer: str, audience: str
    ) -> None:
        self._keys = keys
        self._policy = policy
        self._issuer = issuer
        self._audience = audience

    def authenticate(self, metadata: Metadata) -> Caller:
        """Return the caller, whose subject is the claim `sub`. Raises Unauthenticated."""
        token = bearer_token(metadata)
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = self._keys.get().get(key_id) if isinstance(key_id, str) else None
            if key is None:
                raise Unauthenticated(REFUSED)
            claims = jwt.decode(
                token,
                key,
                algorithms=[name for name in JWT_ALGORITHMS if name == key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                leeway=account_jwt.LEEWAY_S,
                options={"require": ["sub", "aud", "iss", "exp"]},
            )
        except InvalidTokenError as error:
            raise Unauthenticated(REFUSED) from error
        subject_id = str(claims["sub"])
        if not 0 < len(subject_id) <= SUBJECT_LENGTH_MAX or not subject_id.isprintable():
            raise Unauthenticated(f"the token's sub is empty, not printable or longer than {SUBJECT_LENGTH_MAX}")
        return Caller(subject_id, self._policy.get().grants_of(subject_id))

    def exchange(self, *, oauth_token: str, signed_jwt: str) -> Exchanged:
        """Raise NotOffered: tokens come from whoever signs them."""
        raise NotOffered("this server accepts tokens of an issuer of its own choice and gives none")


AnyAuthenticator = NobodyAuthenticator | DevAuthenticator | TokenAuthenticator | JwtAuthenticator


def parse_jwks(content: bytes) -> dict[str, jwt.PyJWK]:
    """Read a JSON web key set: public keys that sign, by `kid`. Raises UsageError."""
    try:
        found = jwt.PyJWKSet.from_json(content.decode()).keys
    except (ValueError, TypeError, AttributeError, PyJWTError) as error:  # its text may show a key
        raise UsageError("is not a JSON web key set with keys that can be used") from error
    keys = {key.key_id: key for key in found if key.key_id and key.public_key_use in (None, "sig")}
    wrong = sorted({key.algorithm_name for key in keys.values()} - set(JWT_ALGORITHMS))
    if wrong:
        raise UsageError(f"has keys for {', '.join(wrong)}; accepted are {', '.join(JWT_ALGORITHMS)}")
    if any(hasattr(key.key, "private_bytes") for key in keys.values()):
        raise UsageError("holds a private key: only public ones belong here")
    if not keys:
        raise UsageError("has no key for signatures with a kid")
    return keys


@lru_cache(maxsize=1024)
def dev_subject(token: str) -> str:
    """Return the subject id of whoever holds `token`: 20 characters that do not reveal it."""
    return f"dev{hashlib.blake2b(token.encode(), digest_size=16, person=b'dataplane-dev').hexdigest()[:17]}"


def _meaningless(credential: str) -> Exchanged:
    name = hashlib.blake2b(credential.encode(), digest_size=18, person=b"dataplane-iam").hexdigest()
    return Exchanged(token=f"t1.dev.{name}", expires_s=int(time.time()) + DEV_TOKEN_LIFETIME_S)
