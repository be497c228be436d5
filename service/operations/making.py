"""Makes what an operation creates: imported from a URL, copied from another folder, or taken from a disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sqlalchemy.engine import Connection

from dataplane import PreparedImport, PreparedSnapshot, Progress, Store, prepare_copy, prepare_import, prepare_snapshot
from service import convert
from service.catalog import operation_rows
from service.catalog.database import Database
from service.catalog.resource_rows import DISKS
from service.contents import StoreContents
from service.disk_folders import DiskFolders
from service.faults import LeaseLost
from service.kinds import CREATED_BY
from service.model import Operation, OperationKind, Resource, chosen_disk_size, new_id
from service.operations import ending
from service.operations.heartbeat import Heartbeat, Stop, snapshot
from service.operations.sources import Sources
from service.sweeping import discard

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Maker:
    """Runs the work of claimed operations, up to and with the transaction that ends one well."""

    def __init__(self, database: Database, store: Store, folders: DiskFolders, sources: Sources) -> None:
        self._database = database
        self._store = store
        self._contents = StoreContents(store)
        self._folders = folders
        self._sources = sources

    def make(self, operation: Operation, progress: Progress, heartbeat: Heartbeat) -> None:
        """Make what the operation creates. Raises LeaseLost, Cancelled, and what is wrong with the source."""
        with self._database.read() as tx:
            resource: Resource[Any] | None = CREATED_BY[operation.kind].rows.get(tx, operation.resource_id)
        if resource is None:
            raise LeaseLost(f"what operation {operation.id} creates is gone")
        if operation.held_pin is not None:
            self._copy(operation, operation.held_pin, resource, progress, heartbeat)
        elif operation.disk_id is not None:
            self._take(operation, operation.disk_id, resource, progress, heartbeat)
        else:
            self._import(operation, resource, progress, heartbeat)

    def _import(self, operation: Operation, resource: Resource[Any], progress: Progress, heartbeat: Heartbeat) -> None:
        with self._sources.open(operation, heartbeat.cancelled) as source:
            values = {"min_disk_size": chosen_disk_size(resource.spec.min_disk_size, source.virtual_size)}
            heartbeat.interrupt = source.close
            with prepare_import(
                self._store,
                source,
                domain=operation.folder_id,
                progress=progress,
                cancelled=heartbeat.cancelled,
                owner=operation.id,
                resumes=lambda: heartbeat.reason in (Stop.DRAINED, Stop.LOST, Stop.REFRESHED),
            ) as prepared:
                self._end(operation, prepared, progress, values)

    def _copy(
        self, operation: Operation, name: str, resource: Resource[Any], progress: Progress, heartbeat: Heartbeat
    ) -> None:
        """Copy content that is kept under `name` into the operation's folder."""
        with prepare_copy(
            self._store, name, domain=operation.folder_id, progress=progress, cancelled=heartbeat.cancelled
        ) as prepared:
            if operation.kind is not OperationKind.CREATE_DISK:
                self._end(operation, prepared, progress)
                return
            content = convert.content(prepared.sizes, prepared.root)
            self._folders.make(resource.id, size=resource.spec.size, domain=operation.folder_id, base=content)
            try:
                self._end(operation, prepared, progress)
            except BaseException:
                discard(self._database, self._folders, resource.id)
                raise

    def _take(
        self, operation: Operation, disk_id: str, resource: Resource[Any], progress: Progress, heartbeat: Heartbeat
    ) -> None:
        """Take what a disk holds at a moment; for another folder it is kept first, and then copied."""
        with self._database.read() as tx:
            disk = DISKS.get(tx, disk_id)
        if disk is None:
            raise LeaseLost(f"disk {disk_id} is gone")
        self._folders.grow(disk_id, disk.spec.size)
        path, held_pin = self._folders.path(disk_id), new_id("copy")
        with prepare_snapshot(self._store, path, progress=progress, cancelled=heartbeat.cancelled) as prepared:
            if disk.spec.folder_id == operation.folder_id:
                self._end(operation, prepared, progress)
                return
            self._hold(operation, prepared, held_pin)
        self._copy(replace(operation, held_pin=held_pin), held_pin, resource, progress, heartbeat)

    def _hold(self, operation: Operation, prepared: PreparedSnapshot, held_pin: str) -> None:
        """Keep what was taken under a name that the operation knows, so that whoever goes on with it need not."""

        def work(tx: Connection) -> None:
            if not operation_rows.hold(tx, operation.id, epoch=operation.epoch, held_pin=held_pin):
                raise LeaseLost(f"operation {operation.id} was taken over or cancelled")
            prepared.pin(held_pin, connection=tx.connection.driver_connection)

        self._database.write(work)

    def _end(
        self,
        operation: Operation,
        prepared: PreparedImport | PreparedSnapshot,
        progress: Progress,
        values: Mapping[str, Any] = _NOTHING,
    ) -> None:
        """End the operation well, with the content that lies in the store and lacks only its pin."""
        content = convert.content(prepared.sizes, prepared.root)

        def pin(tx: Connection) -> None:
            prepared.pin(operation.resource_id, connection=tx.connection.driver_connection)

        def work(tx: Connection) -> None:
            ending.succeed(
                tx,
                operation,
                content=content,
                values=values,
                progress=snapshot(progress),
                pin=pin,
                contents=self._contents,
            )

        self._database.write(work)
