"""Keeps disks open while workers take their content: a worker that had one open itself would keep clients out."""

from __future__ import annotations

import threading
import time

from dataplane.errors import DataplaneError
from service.catalog import operation_rows
from service.catalog.database import Database
from service.log import get_logger
from service.nbd.open_disks import OpenDisks

LOOK_S = 1.0
IDLE_S = 3.0
"""How long a disk is kept after its operation, which may only be about to begin, or not be quite through with it."""

log = get_logger(__name__)


class Holder:
    """A user of open disks beside the clients, with a thread that looks whether operations still need them."""

    def __init__(self, database: Database, disks: OpenDisks) -> None:
        self._database = database
        self._disks = disks
        self._lock = threading.Lock()
        self._needed_s: dict[str, float] = {}  # when each was last known to be needed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk-holder", daemon=True)
        self._thread.start()

    def hold(self, disk_id: str) -> None:
        """Have a disk open here, if that can be, for as long as an operation takes its content."""
        with self._lock:
            if disk_id not in self._needed_s:
                try:
                    self._disks.take(disk_id, wait_s=0)
                except DataplaneError as error:
                    log.info("disk left to the worker", resource_id=disk_id, reason=str(error))
                    return
            self._needed_s[disk_id] = time.monotonic()

    def drop(self, disk_id: str) -> None:
        """Stop that, because the disk is about to go."""
        with self._lock:
            if self._needed_s.pop(disk_id, None) is not None:
                self._disks.give_back(disk_id)

    def stop(self) -> None:
        """Let go of all."""
        self._stopping.set()
        self._thread.join()
        for disk_id in list(self._needed_s):
            self.drop(disk_id)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self._look()
            except Exception as error:  # the next time may go well
                log.warning("disks in use not looked at", reason=str(error))

    def _look(self) -> None:
        for disk_id, needed_s in list(self._needed_s.items()):
            with self._database.read() as tx:
                is_needed = operation_rows.reading_disk(tx, disk_id) is not None
            if is_needed:
                with self._lock:
                    if disk_id in self._needed_s:
                        self._needed_s[disk_id] = time.monotonic()
            elif time.monotonic() - needed_s > IDLE_S:
                self.drop(disk_id)
