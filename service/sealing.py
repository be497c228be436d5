"""Keeps source URLs unreadable in the catalogue: their query may be a secret, and a restarted worker needs it back."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from dataplane.errors import StoreIncompatible

KEY_FILE = "source.key"


class Sealer:
    """Encrypts small values under a key that only the service's user can read."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)
        self._mark_key = hashlib.sha256(b"dataplane request mark\0" + key).digest()

    @classmethod
    def at_path(cls, path: Path) -> Sealer:
        """Open the key in `path`, making one with owner-only rights when there is none yet."""
        try:
            return cls(key_at_path(path))
        except ValueError as error:
            raise StoreIncompatible(f"{path} is not a key: restore it, or remove it when nothing is queued") from error

    def seal(self, value: str) -> bytes:
        """Return `value` encrypted and authenticated."""
        return self._fernet.encrypt(value.encode())

    def mark(self, value: bytes) -> bytes:
        """Return 32 bytes that tell `value` from others and, without the key, say nothing of it."""
        return hmac.digest(self._mark_key, value, "sha256")

    def unseal(self, sealed: bytes) -> str:
        """Return what was sealed. Raises StoreIncompatible when the key is another one."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken as error:
            raise StoreIncompatible("a queued source was sealed with another key: create the image again") from error


def key_at_path(path: Path) -> bytes:
    """Return the key in `path`, making one of 32 random bytes (as text) with owner-only rights when there is none."""
    if not path.exists():
        _make_key(path)
    return path.read_bytes()


def _make_key(path: Path) -> None:
    """Put a new key at `path`, whole or not at all; when another process was faster, its key stays."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(Fernet.generate_key())
        file.flush()
        os.fsync(file.fileno())
    try:
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # before anything that is sealed with it is committed
    finally:
        os.close(folder)
