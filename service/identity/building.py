"""Makes what finds out who calls, as the configuration asks for it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from service import sealing
from service.config import AuthMode, ServeConfig
from service.identity import policy, token_file
from service.identity.issued import Issuer
from service.identity.modes import (
    AnyAuthenticator,
    DevAuthenticator,
    JwtAuthenticator,
    NobodyAuthenticator,
    TokenAuthenticator,
    parse_jwks,
)
from service.watched_file import WatchedFile

SECRET_FILE = "iam.key"  # noqa: S105 - a file's name


def authenticator(config: ServeConfig, audiences: Callable[[], Collection[str]]) -> AnyAuthenticator:
    """Return the authenticator of the configured mode.

    `audiences` gives what the JWT of a service account may be for. Raises UsageError for a file that is wrong.
    """
    auth = config.auth
    match auth.mode:
        case AuthMode.DEV:
            return DevAuthenticator()
        case AuthMode.NONE:
            return NobodyAuthenticator()
    grants = WatchedFile(auth.policy or Path(), policy.parse)
    if auth.mode is AuthMode.JWT:
        keys = WatchedFile(auth.file or Path(), parse_jwks)
        return JwtAuthenticator(keys, grants, issuer=auth.issuer, audience=auth.audience)
    credentials = WatchedFile(auth.file or Path(), token_file.parse)
    issuer = Issuer(sealing.key_at_path(config.data_dir / SECRET_FILE))
    return TokenAuthenticator(credentials, grants, issuer, audiences)


def audience_of(endpoint: str) -> str:
    """Return what SDKs put into `aud` when `endpoint` (HOST:PORT) is what they were told."""
    return f"https://iam.{endpoint}/iam/v1/tokens"
