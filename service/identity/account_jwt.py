"""The JSON web token that a service account signs to get a short-lived token, as the public SDKs make it."""

from __future__ import annotations

from collections.abc import Collection

import jwt
from jwt.exceptions import InvalidAudienceError, InvalidTokenError

from service.faults import Unauthenticated
from service.identity.token_file import AccountKey, Credentials

ALGORITHM = "PS256"
LIFETIME_MAX_S = 3600
LEEWAY_S = 30
"""Seconds by which the clocks of client and server may differ."""


def check(token: str, credentials: Credentials, *, audiences: Collection[str]) -> AccountKey:
    """Return the key that signed `token`. Raises Unauthenticated that says which claim is wrong."""
    try:
        key_id = jwt.get_unverified_header(token).get("kid")
        key = credentials.keys.get(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise Unauthenticated("the JWT's kid names no key of a service account that is registered here")
        claims = jwt.decode(
            token,
            key.public_key,
            algorithms=[ALGORITHM],
            audience=list(audiences),
            issuer=key.subject_id,
            leeway=LEEWAY_S,
            options={"require": ["aud", "iss", "iat", "exp"]},
        )
    except InvalidAudienceError as error:
        raise Unauthenticated(f"the JWT is for another audience: aud has to be {' or '.join(audiences)}") from error
    except InvalidTokenError as error:
        raise Unauthenticated(f"the JWT is not accepted: {error}") from error
    if claims["exp"] - claims["iat"] > LIFETIME_MAX_S:
        raise Unauthenticated(f"the JWT lives longer than {LIFETIME_MAX_S} seconds: make exp − iat smaller")
    return key
