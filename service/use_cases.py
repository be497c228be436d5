"""Everything that callers can do, put together over one catalogue and one store."""

from __future__ import annotations

from service.bindings import Bindings
from service.catalog.database import Database
from service.contents import Contents
from service.disk_folders import DiskFolders
from service.disks import Disks
from service.exporting import DiskExports
from service.holding import DiskHolder
from service.images import Images
from service.kinds import DISK, IMAGE, SNAPSHOT
from service.operations.use_cases import Operations
from service.quotas import Quotas
from service.sealing import Sealer
from service.snapshots import Snapshots


class UseCases:
    """The use cases of every service; `bindings` has those of each kind of resource."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        contents: Contents,
        folders: DiskFolders,
        quotas: Quotas | None = None,
        exports: DiskExports | None = None,
        holder: DiskHolder | None = None,
    ) -> None:
        self.images = Images(database, sealer, contents, quotas, holder)
        self.disks = Disks(database, sealer, contents, folders, quotas, holder)
        self.snapshots = Snapshots(database, sealer, contents, quotas, holder)
        self.bindings = {kind: Bindings(kind, database, sealer) for kind in (IMAGE, DISK, SNAPSHOT)}
        self.exports = exports or DiskExports(database)
        self.operations = Operations(database, sealer, contents)
