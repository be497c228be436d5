"""Use cases of snapshots: the content of a disk at one moment."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.engine import Connection

from service import limits
from service.auth import Verb
from service.catalog.database import Database
from service.contents import Contents
from service.holding import DiskHolder
from service.inheriting import inherit
from service.kinds import DISK, SNAPSHOT
from service.model import Operation, SnapshotSpec
from service.origin import Origin
from service.quotas import Quotas
from service.resources import Resources, found_ready, require_disk_idle
from service.sealing import Sealer


class Snapshots(Resources[SnapshotSpec]):
    """What can be done with snapshots, for callers whose requests have been checked."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        contents: Contents,
        quotas: Quotas | None = None,
        holder: DiskHolder | None = None,
    ) -> None:
        super().__init__(SNAPSHOT, database, sealer, contents, quotas, holder)

    def create(self, spec: SnapshotSpec, origin: Origin) -> Operation:
        """Commit a snapshot that is being created and the operation that will take the disk's content; return that.

        Raises AlreadyExists, QuotaExceeded, NotFound, PermissionDenied, and FailedPrecondition unless the disk is READY
        and no other operation takes its content.
        """
        disk_id = spec.source_disk_id

        def work(tx: Connection) -> Operation:
            disk = found_ready(tx, DISK, disk_id, origin, Verb.GET)
            require_disk_idle(tx, disk_id)
            whole = inherit(replace(spec, disk_size=disk.spec.size), disk.spec)
            limits.check_new_snapshot(tx, spec.folder_id, self._quotas, disk_size=disk.spec.size, waits=True)
            return self._begin_creation(tx, whole, origin, disk_id=disk_id)

        self._hold_disk(disk_id, origin)
        return self._create(spec, origin, work)
