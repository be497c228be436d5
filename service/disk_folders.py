"""The overlays of disks: what was written to each of them lies in a folder of its own, named by the disk's id.

A folder is there before the catalogue knows its disk, and goes after the catalogue has forgotten it. So a disk whose
folder is missing has lost what it held, and a folder too many is one that a crash has left.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataplane import Store, create_overlay, delete_overlay, disk_status, lock_disk, resize_disk
from dataplane.errors import Corrupt, DataplaneError, IoFailed, NotFound, StoreLocked
from service.faults import FailedPrecondition, shown
from service.log import get_logger
from service.model import Content

ABANDONED_S = 3600.0
CLOSING_S = 3.0
LOOK_S = 0.05

log = get_logger(__name__)


class DiskFolders:
    """The folders of all disks, side by side in one."""

    def __init__(self, root: Path, store: Store) -> None:
        self._root = root
        self._store = store

    def prepare(self) -> None:
        """Make the folder of folders if it is missing. Raises IoFailed."""
        try:
            self._root.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise IoFailed(f"cannot make the folder {self._root}: {error.strerror}") from error

    def path(self, disk_id: str) -> Path:
        """Return the folder of a disk."""
        return self._root / disk_id

    def make(self, disk_id: str, *, size: int, domain: str, base: Content | None) -> None:
        """Make the overlay of a new disk, durably and in no time; what an earlier attempt has left goes.

        `size` is in bytes; `domain` is the folder whose chunks the disk shares. Raises NoSpace or IoFailed.
        """
        delete_overlay(self.path(disk_id))
        create_overlay(
            self.path(disk_id),
            size=size,
            base_root=base.root if base is not None else None,
            base_size=base.virtual_size if base is not None else 0,
            domain=domain,
            owner=disk_id,
        )

    def remove(self, disk_id: str) -> None:
        """Remove the overlay of a disk that the catalogue does not know; what resists is left for the next start."""
        try:
            delete_overlay(self.path(disk_id))
        except DataplaneError as error:
            log.warning("disk folder not removed", resource_id=disk_id, reason=str(error))

    def wait_until_closed(self, disk_id: str) -> None:
        """Give whoever is about to close the disk, such as a worker that has taken its content, the time for that."""
        deadline_s = time.monotonic() + CLOSING_S
        while time.monotonic() < deadline_s:
            try:
                os.close(lock_disk(self.path(disk_id)))
            except StoreLocked:
                time.sleep(LOOK_S)
            except DataplaneError:
                return
            else:
                return

    def require_closed(self, disk_id: str) -> None:
        """Return when no process has the disk open. Raises FailedPrecondition."""
        with contextlib.suppress(NotFound):  # whatever was in it, nobody has it open
            try:
                os.close(lock_disk(self.path(disk_id)))
            except StoreLocked as error:
                message = f"disk {shown(disk_id)} is in use: detach it first"
                raise FailedPrecondition(message, subject=f"disk:{disk_id}") from error

    def grow(self, disk_id: str, size: int) -> None:
        """Make the overlay at least `size` bytes large, whoever has it open.

        Raises Corrupt when it is lost, StoreLocked when its owner takes no requests, NoSpace or IoFailed.
        """
        with self._not_lost(disk_id):
            if disk_status(self.path(disk_id)).size < size:
                resize_disk(self._store, self.path(disk_id), size)

    def names(self) -> list[str]:
        """Return the ids that there are folders for."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(self._root) if not entry.name.startswith("."))
        return []

    def is_abandoned(self, disk_id: str) -> bool:
        """Say whether a disk was made an hour ago or longer and never written to; an unreadable one may hold something.

        One that is younger may be about to be known: other servers make disks in the same folder.
        """
        try:
            age_s = time.time() - self.path(disk_id).stat().st_mtime
            found = disk_status(self.path(disk_id))
        except (DataplaneError, OSError):
            return False
        return age_s > ABANDONED_S and not (found.written_size or found.zeroed_size or found.snapshotting)

    @contextmanager
    def _not_lost(self, disk_id: str) -> Iterator[None]:
        try:
            yield
        except NotFound as error:
            message = f"what was written to disk {shown(disk_id)} is lost: restore {self.path(disk_id)} from a backup"
            raise Corrupt(message) from error
