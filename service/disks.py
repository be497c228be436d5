"""Use cases of disks: made empty, or from images and snapshots; grown; deleted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from sqlalchemy.engine import Connection

from dataplane.errors import DataplaneError, NotFound
from service import disk_sizes, limits
from service.auth import Caller, Verb
from service.catalog import operation_rows
from service.catalog.database import Database
from service.contents import Contents
from service.disk_folders import DiskFolders
from service.faults import InvalidRequest, NotOffered, Violation, shown
from service.holding import DiskHolder
from service.inheriting import inherit
from service.kinds import DISK, IMAGE, SNAPSHOT, Kind
from service.log import get_logger
from service.model import Disk, DiskSpec, Operation, Resource
from service.origin import Origin
from service.quotas import Quotas
from service.resources import Resources, found_ready, require_disk_idle
from service.sealing import Sealer
from service.sweeping import discard
from service.visibility import find, require_folder

log = get_logger(__name__)


class Disks(Resources[DiskSpec]):
    """What can be done with disks, for callers whose requests have been checked."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        contents: Contents,
        folders: DiskFolders,
        quotas: Quotas | None = None,
        holder: DiskHolder | None = None,
    ) -> None:
        super().__init__(DISK, database, sealer, contents, quotas, holder)
        self._folders = folders

    def create(
        self, spec: DiskSpec, origin: Origin, *, key_id: str = "", schedule_ids: Sequence[str] = ()
    ) -> Operation:
        """Commit a disk with the content of its source, or an empty one; return its operation.

        Done at once, however large the disk is, unless the source is in another folder: folders share no chunk ids, so
        a worker has to copy then. Raises AlreadyExists, QuotaExceeded, NotFound, PermissionDenied, FailedPrecondition
        unless the source is READY, and InvalidRequest for a size that is too small for it.
        """
        require_folder(spec.folder_id, origin.caller, DISK.actions[Verb.CREATE])
        _require_none("key", [key_id] if key_id else [])
        _require_none("snapshot schedule", schedule_ids)
        known = self._changes.known(origin)
        if known is not None:
            return known
        disk_id = self._new_id()

        def work(tx: Connection) -> Operation:
            source = self._source(tx, spec, origin, lock=True)
            whole = inherit(spec, source.spec if source is not None else None)
            waits = _is_elsewhere(source, spec)
            limits.check_new_disk(tx, spec.folder_id, self._quotas, size=spec.size, waits=waits)
            if source is not None and waits:
                return self._begin_creation(tx, whole, origin, held_pin=self._held(tx, source.id))
            return self._create_at_once(tx, whole, origin, source, resource_id=disk_id)

        with self._database.read() as tx:
            source = self._source(tx, spec, origin)
        if _is_elsewhere(source, spec):
            return self._create(spec, origin, work)
        with self._folder(disk_id, spec, source) as kept:
            operation = self._create(spec, origin, work)
            kept.append(operation.resource_id)
        return operation

    def delete(self, resource_id: str, origin: Origin) -> Operation:
        """Remove a disk as ``Resources.delete`` does, and then what was written to it."""
        disk = DISK.rows.look_up(self._database.lookup, resource_id)
        if disk is not None and origin.caller.may(disk.spec.folder_id, DISK.actions[Verb.DELETE]):
            with self._database.read() as tx:
                is_read = operation_rows.reading_disk(tx, resource_id) is not None
            if not is_read:
                self._holder.drop(resource_id)
                self._folders.wait_until_closed(resource_id)
        operation = super().delete(resource_id, origin)
        self._folders.remove(resource_id)
        return operation

    def update(self, resource_id: str, values: Mapping[str, Any], paths: Collection[str], origin: Origin) -> Operation:
        """Change a disk as ``Resources.update`` does; one that grows does so wherever it is in use."""
        operation = super().update(resource_id, values, paths, origin)
        if values["size"] and "size" in (paths or DISK.updatable):
            self._grow(resource_id)
        return operation

    def refuse_move(self, disk_id: str, caller: Caller, problem: str) -> NoReturn:
        """Raise NotOffered because of `problem`; NotFound or PermissionDenied when the caller may not know of it."""
        with self._database.read() as tx:
            find(tx, DISK, disk_id, caller, Verb.UPDATE)
        raise NotOffered(problem)

    @contextmanager
    def _folder(self, disk_id: str, spec: DiskSpec, source: Resource[Any] | None) -> Iterator[list[str]]:
        """Make the folder of a new disk; remove it again unless the block puts the disk's id into the list it gets."""
        base = source.content if source is not None else None
        self._folders.make(disk_id, size=spec.size, domain=spec.folder_id, base=base)
        kept: list[str] = []
        try:
            yield kept
        finally:
            if disk_id not in kept:  # it failed, or it was a repetition of a call under way
                discard(self._database, self._folders, disk_id)

    def _grow(self, disk_id: str) -> None:
        """Let the overlay follow the catalogue; what does not work now is done when the disk is opened next."""
        disk = DISK.rows.look_up(self._database.lookup, disk_id)
        if disk is not None:
            try:
                self._folders.grow(disk_id, disk.spec.size)
            except DataplaneError as error:
                log.warning("disk not grown yet", resource_id=disk_id, reason=str(error))

    def _source(self, tx: Connection, spec: DiskSpec, origin: Origin, *, lock: bool = False) -> Resource[Any] | None:
        """Return what the disk is made from, None for nothing. Raises InvalidRequest when it does not fit."""
        if spec.source_image_id:
            image = found_ready(tx, IMAGE, spec.source_image_id, origin, Verb.GET, lock=lock)
            return _fitting(IMAGE, image, image.spec.min_disk_size, spec)
        if spec.source_snapshot_id:
            snapshot = found_ready(tx, SNAPSHOT, spec.source_snapshot_id, origin, Verb.GET, lock=lock)
            return _fitting(SNAPSHOT, snapshot, snapshot.spec.disk_size, spec)
        return None

    def _checked(self, tx: Connection, resource: Disk, values: dict[str, Any]) -> dict[str, Any]:
        """A size of 0 is the one that the disk has: it does not shrink."""
        if "size" not in values:
            return values
        before, asked = resource.spec.size, values["size"]
        if asked and asked < before:
            problem = f"{asked} is less than the disk has, {before} bytes: disks only grow"
            raise InvalidRequest([Violation("size", problem)])
        size = asked or before
        if size > before:
            require_disk_idle(tx, resource.id)
        problems = disk_sizes.problems(size, type_id=resource.spec.type_id, block_size=resource.spec.block_size)
        if violations := [Violation("size", problem) for problem in problems]:
            raise InvalidRequest(violations)
        limits.check_growth(tx, resource.spec.folder_id, self._quotas, grown_by=size - before)
        return values | {"size": size}

    def _require_unused(self, tx: Connection, resource: Disk) -> None:
        require_disk_idle(tx, resource.id)
        self._folders.require_closed(resource.id)

    def _let_go(self, tx: Connection, resource: Disk) -> None:
        self._contents.let_go_disk(tx, resource.id)


def _fitting(kind: Kind[Any], source: Resource[Any], size_min: int, spec: DiskSpec) -> Resource[Any]:
    """Return the source of a disk that is large enough for it. Raises InvalidRequest."""
    if spec.size < size_min:
        problem = f"{spec.size} is too small for {kind.word} {shown(source.id)}: the minimum is {size_min} bytes"
        raise InvalidRequest([Violation("size", problem)])
    return source


def _require_none(what: str, ids: Sequence[str]) -> None:
    """Return when no ids are given of something that this server has none of. Raises NotFound."""
    if ids:
        raise NotFound(f"{what} {shown(ids[0])} is not there: this server has none")


def _is_elsewhere(source: Resource[Any] | None, spec: DiskSpec) -> bool:
    return source is not None and source.spec.folder_id != spec.folder_id
