"""A writer's own folder under tmp/: what is in it belongs to no image yet, and goes when the writer does.

The folder is held by a file lock, which the kernel drops with the process: a folder whose lock can be taken is what a
killed writer left behind, whatever the clock says, and the next writer removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from pathlib import Path
from types import TracebackType

from dataplane.store.layout import Layout, naming

LOCK_NAME = "lock"


class Workspace:
    """A locked folder for the files of one import. Leaving it removes the folder."""

    def __init__(self, layout: Layout) -> None:
        remove_abandoned(layout)
        self.path = layout.temporary / secrets.token_hex(8)
        with naming(self.path, "creating"):
            # Locked under a hidden name first: a folder that is visible to other writers is always locked.
            hidden = self.path.with_name(f".{self.path.name}")
            hidden.mkdir()
            self._lock = os.open(hidden / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(self.path)

    def close(self) -> None:
        """Remove the folder and drop the lock; a second call does nothing."""
        if self._lock < 0:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def remove_abandoned(layout: Layout) -> None:
    """Remove the folders of writers that are gone."""
    for folder in sorted(layout.temporary.iterdir()):
        with contextlib.suppress(OSError):
            remove_if_abandoned(folder)


def remove_if_abandoned(folder: Path) -> None:
    """Remove a writer's folder unless its lock is held; raises BlockingIOError when it is."""
    try:
        lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # being created or removed by someone else at this moment, or left so by a crash: empty either way
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(lock)
