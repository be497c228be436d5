"""Names of exports: the id of a disk and a token for it, so that a client needs no other secret to connect."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from service.identity.issued import Issuer
from service.sealing import key_at_path

SECRET_FILE = "nbd.key"  # noqa: S105 - a file's name
_SEPARATOR = ":"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a token lets a client do: to one disk, until a second since 1970."""

    disk_id: str
    read_only: bool
    expires_s: int


class ExportTokens:
    """Makes and reads names of exports, under a secret that every server of the same data folder has."""

    def __init__(self, secret: bytes) -> None:
        self._issuer = Issuer(secret)

    @classmethod
    def at_path(cls, path: Path) -> ExportTokens:
        """Use the secret in `path`, making one when there is none yet."""
        return cls(key_at_path(path))

    def name(self, disk_id: str, *, subject_id: str, read_only: bool, lifetime_s: int) -> tuple[str, int]:
        """Return the name of an export, and the second since 1970 at which it runs out."""
        token, expires_s = self._issuer.issue(
            subject_id=subject_id,
            credential=_credential(disk_id, read_only=read_only),
            now_s=time.time(),
            lifetime_s=lifetime_s,
        )
        return f"{disk_id}{_SEPARATOR}{token}", expires_s

    def read(self, name: str) -> Access | None:
        """Return what a name lets its client do; None when it was not made here, or ran out."""
        disk_id, _, token = name.partition(_SEPARATOR)
        issued = self._issuer.check(token)
        if issued is None:
            return None
        for read_only in (False, True):
            if issued.credential == _credential(disk_id, read_only=read_only):
                return Access(disk_id=disk_id, read_only=read_only, expires_s=issued.expires_s)
        return None


def _credential(disk_id: str, *, read_only: bool) -> str:
    return f"disk:{disk_id}:{'read' if read_only else 'write'}"
