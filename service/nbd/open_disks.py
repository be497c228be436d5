"""Disks that clients are connected to: each is open once, however many use it, and closed after the last."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass

from dataplane import BlockDevice, BootTrace, ChunkCache, ControlListener, Disk, Store, WatchedDevice, open_disk
from dataplane.errors import DataplaneError, NotFound, StoreLocked
from service.catalog.database import Database
from service.catalog.resource_rows import DISKS
from service.disk_folders import DiskFolders
from service.faults import shown
from service.log import get_logger
from service.model import Status
from service.nbd.pool_files import PoolFiles

WAIT_S = 10.0
"""How long to wait for a process that is about to close a disk, such as a worker that has taken its content."""

LOOK_S = 0.1

log = get_logger(__name__)


@dataclass(slots=True)
class _Open:
    disk: Disk
    device: WatchedDevice
    resources: contextlib.ExitStack
    trace: BootTrace | None = None
    users: int = 0


class OpenDisks:
    """The open disks of one process. Safe for concurrent use by threads; opening one keeps others waiting."""

    def __init__(
        self, database: Database, store: Store, folders: DiskFolders, pools: PoolFiles, *, cache_size: int
    ) -> None:
        """`cache_size` bounds the decoded chunks, in bytes, that all of them keep together."""
        self._database = database
        self._store = store
        self._folders = folders
        self._pools = pools
        self._cache = ChunkCache(cache_size)
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}

    def take(self, disk_id: str, *, wait_s: float = WAIT_S) -> BlockDevice:
        """Return a disk for one more user, who calls ``give_back`` once.

        Raises NotFound when there is none that is READY, StoreLocked when another process has it for longer than
        `wait_s`, Corrupt or IoFailed.
        """
        deadline_s = time.monotonic() + wait_s
        while True:
            try:
                return self._take(disk_id)
            except StoreLocked:
                if time.monotonic() >= deadline_s:
                    raise
            time.sleep(LOOK_S)

    def _take(self, disk_id: str) -> BlockDevice:
        with self._lock:
            held = self._open.get(disk_id)
            if held is None:
                held = self._open[disk_id] = self._opened(disk_id)
                log.info("disk opened", resource_id=disk_id)
            held.users += 1
            return held.device

    def give_back(self, disk_id: str) -> None:
        """Let go of a disk; the last user closes it."""
        with self._lock:
            held = self._open[disk_id]
            held.users -= 1
            if held.users == 0:
                del self._open[disk_id]
                self._close(disk_id, held)

    def close(self) -> None:
        """Close all, whoever uses them."""
        with self._lock:
            while self._open:
                self._close(*self._open.popitem())

    def _opened(self, disk_id: str) -> _Open:
        with self._database.read() as tx:
            row = DISKS.get(tx, disk_id)
        if row is None or row.status is not Status.READY:
            raise NotFound(f"disk {shown(disk_id)} is not there")
        self._folders.grow(disk_id, row.spec.size)  # what an update could not reach
        with contextlib.ExitStack() as stack:
            path = self._folders.path(disk_id)
            disk = stack.enter_context(open_disk(self._store, path, cache=self._cache, find_pool=self._pools.open))
            stack.enter_context(ControlListener(disk))
            root = _made_of(disk)
            trace = self._pools.trace_for(root) if root is not None else None
            device = WatchedDevice(disk, trace)
            stack.callback(device.close)
            return _Open(disk, device, stack.pop_all(), trace)

    def _close(self, disk_id: str, held: _Open) -> None:
        try:
            held.resources.close()
            log.info("disk closed", resource_id=disk_id)
        except DataplaneError as error:  # the flush at the end; what clients have flushed is there
            log.error("disk not closed well", resource_id=disk_id, reason=str(error))
        root = _made_of(held.disk)
        if held.trace is not None and root is not None:
            self._pools.save_trace(root, held.trace)


def _made_of(disk: Disk) -> bytes | None:
    """Return the root that a disk was made of."""
    return bytes.fromhex(disk.state.origin_root) if disk.state.origin_root else None
