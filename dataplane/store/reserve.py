"""A file that only takes up room: on a full disk it goes, so that the ledger can be opened and things be removed.

SQLite needs room to be read, for the index of its log, and more to be written; without any, a full disk could never be
emptied by the means of the store. The file comes back when a ledger is closed and there is room again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

RESERVE_SIZE = 1 << 20
"""Bytes: the log and its index, a lease, and the small runs that a collection writes before it deletes."""


class Reserve:
    """The reserve beside the ledger at `ledger`."""

    def __init__(self, ledger: Path) -> None:
        self._path = ledger.with_name("reserve")

    def release_if_full(self) -> None:
        """Give the room away when the file system has less than that; errors are left to whoever needs the room."""
        with contextlib.suppress(OSError):
            space = os.statvfs(self._path.parent)
            if space.f_bavail * space.f_frsize < RESERVE_SIZE or space.f_favail == 0 < space.f_files:
                self._path.unlink(missing_ok=True)

    def restore(self) -> None:
        """Take the room again, unless there is too little of it or the folder cannot be written."""
        with contextlib.suppress(OSError):
            space = os.statvfs(self._path.parent)
            if self._path.exists() or space.f_bavail * space.f_frsize < 2 * RESERVE_SIZE:
                return
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, RESERVE_SIZE)
            except OSError:
                self._path.unlink()
            finally:
                os.close(fd)
