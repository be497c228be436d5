"""The file of credentials of `--auth tokens:FILE`: hashed tokens, and the public keys of service accounts.

[[token]]
id = "x7k2m9qa"                       # the part of the token that is no secret
subject = "ci"
sha256 = "…"                          # of the whole token; `dataplane token new` prints such an entry
expires = 2027-01-01T00:00:00Z        # may be left out

[[service_account]]
id = "aje0123456789abcdefg"           # also the subject that the policy knows
key_id = "ajk0123456789abcdefg"
public_key = '''-----BEGIN PUBLIC KEY-----
…'''
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from dataplane.errors import UsageError
from service.faults import shown
from service.identity.policy import read_toml, refuse_unknown, tables

TOKEN_PREFIX = "dp1"  # noqa: S105 - what tokens begin with, so that scanners for leaked secrets can find them
ID_BYTES = 6
SECRET_BYTES = 32  # random, so one round of SHA-256 hides it: a slow hash is for what people can remember
RSA_BITS_MIN = 2048
_TOKEN = re.compile(rf"{TOKEN_PREFIX}\.(?P<id>[0-9a-f]{{{2 * ID_BYTES}}})\.[A-Za-z0-9_-]{{43}}")
_ABSENT = hashlib.sha256(b"no such token").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """A token as the file has it. `expires_s` is in seconds since 1970; None: never."""

    id: str
    subject_id: str
    sha256: str
    expires_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountKey:
    """A public key of a service account."""

    id: str
    subject_id: str
    public_key: RSAPublicKey


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything in the file, by id of token and of key."""

    tokens: Mapping[str, StoredToken]
    keys: Mapping[str, AccountKey]

    def find(self, token: str, *, now_s: float) -> StoredToken | None:
        """Return the entry of `token`; None when there is none or it ran out. Takes equally long for a near miss."""
        match = _TOKEN.fullmatch(token)
        entry = self.tokens.get(match["id"]) if match is not None else None
        same = hmac.compare_digest(digest_of(token), entry.sha256 if entry is not None else _ABSENT)
        return entry if entry is not None and same and _is_current(entry, now_s) else None

    def holds(self, credential: str, *, subject_id: str, now_s: float) -> bool:
        """Say whether the credential that a short-lived token came from, ``token:ID`` or ``key:ID``, is still good."""
        kind, _, name = credential.partition(":")
        if kind == "token":
            entry = self.tokens.get(name)
            return entry is not None and entry.subject_id == subject_id and _is_current(entry, now_s)
        key = self.keys.get(name) if kind == "key" else None
        return key is not None and key.subject_id == subject_id


def new_token() -> tuple[str, str]:
    """Return a new token and its id."""
    token_id = secrets.token_hex(ID_BYTES)
    return f"{TOKEN_PREFIX}.{token_id}.{secrets.token_urlsafe(SECRET_BYTES)}", token_id


def digest_of(token: str) -> str:
    """Return what the file holds of a token: its SHA-256, in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


def parse(content: bytes) -> Credentials:
    """Read the file. Raises UsageError that names the entry that is wrong, never its value."""
    table = read_toml(content)
    refuse_unknown(table, ("token", "service_account"), "the file")
    tokens: dict[str, StoredToken] = {}
    for index, entry in enumerate(tables(table, "token"), 1):
        token = _token(entry, f"token {index}")
        if token.id in tokens:
            raise UsageError(f"token id {shown(token.id)} is there twice")
        tokens[token.id] = token
    keys: dict[str, AccountKey] = {}
    for index, entry in enumerate(tables(table, "service_account"), 1):
        key = _key(entry, f"service_account {index}")
        if key.id in keys:
            raise UsageError(f"key_id {shown(key.id)} is there twice")
        keys[key.id] = key
    return Credentials(tokens, keys)


def _token(entry: dict[str, object], where: str) -> StoredToken:
    refuse_unknown(entry, ("id", "subject", "sha256", "expires"), where)
    sha256 = _string(entry, "sha256", where).lower()
    if re.fullmatch(r"[0-9a-f]{64}", sha256) is None:
        raise UsageError(f"{where}: sha256 is not 64 hexadecimal digits")
    expires = entry.get("expires")
    if expires is not None and not isinstance(expires, datetime):
        raise UsageError(f"{where}: expires is not a date with time, such as 2027-01-01T00:00:00Z")
    expires_s = None if expires is None else (expires if expires.tzinfo else expires.replace(tzinfo=UTC)).timestamp()
    name, subject = _string(entry, "id", where), _string(entry, "subject", where)
    return StoredToken(id=name, subject_id=subject, sha256=sha256, expires_s=expires_s)


def _key(entry: dict[str, object], where: str) -> AccountKey:
    refuse_unknown(entry, ("id", "key_id", "public_key"), where)
    try:
        key = load_pem_public_key(_string(entry, "public_key", where).encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{where}: public_key is not a public key in PEM") from error
    if not isinstance(key, RSAPublicKey) or key.key_size < RSA_BITS_MIN:
        raise UsageError(f"{where}: public_key is not an RSA key of at least {RSA_BITS_MIN} bits")
    name, subject = _string(entry, "key_id", where), _string(entry, "id", where)
    return AccountKey(id=name, subject_id=subject, public_key=key)


def _string(entry: dict[str, object], key: str, where: str) -> str:
    value = entry.get(key)
    if isinstance(value, str) and value:
        return value
    raise UsageError(f"{where}: {key} is missing, or not a string")


def _is_current(entry: StoredToken, now_s: float) -> bool:
    return entry.expires_s is None or now_s < entry.expires_s
