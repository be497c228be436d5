"""Use case of exports: names under which disks can be reached over NBD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from service.auth import Caller, Verb
from service.catalog.database import Database
from service.config import Address
from service.faults import FailedPrecondition, NotOffered
from service.identity.issued import LIFETIME_S
from service.kinds import DISK
from service.model import Status
from service.visibility import find, named


class ExportNames(Protocol):
    """Makes names that let a client in."""

    def name(self, disk_id: str, *, subject_id: str, read_only: bool, lifetime_s: int) -> tuple[str, int]:
        """Return the name of an export, and the second since 1970 at which it runs out."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Where a disk can be reached until a second since 1970."""

    disk_id: str
    address: Address
    tls: bool
    name: str
    expires_s: int


class DiskExports:
    """Lets callers connect to disks, for requests that have been checked. Without `names` the server exports none."""

    def __init__(
        self, database: Database, names: ExportNames | None = None, address: Address | None = None, *, tls: bool = True
    ) -> None:
        self._database = database
        self._names = names
        self._address = address
        self._tls = tls

    def create(self, disk_id: str, caller: Caller, *, read_only: bool, lifetime_s: int) -> Exported:
        """Return where the disk is for so many seconds, 0 for an hour.

        Who may get a disk may read it, who may update it may write. Raises NotOffered when disks are not exported,
        NotFound, PermissionDenied, or FailedPrecondition while the disk is being created.
        """
        if self._names is None or self._address is None:
            raise NotOffered("this server exports no disks: start it with --nbd-listen")
        with self._database.read() as tx:
            disk = find(tx, DISK, disk_id, caller, Verb.GET if read_only else Verb.UPDATE)
        if disk.status is not Status.READY:
            raise FailedPrecondition(f"{named(DISK, disk_id)} is being created", subject=f"disk:{disk_id}")
        name, expires_s = self._names.name(
            disk_id, subject_id=caller.subject_id, read_only=read_only, lifetime_s=lifetime_s or LIFETIME_S
        )
        return Exported(disk_id=disk_id, address=self._address, tls=self._tls, name=name, expires_s=expires_s)
