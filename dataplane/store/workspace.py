"""A writer's own folder under tmp/: what is in it belongs to no image yet, and goes when the writer does.

The folder is held by a file lock, which the kernel drops with the process: a folder whose lock can be taken is what a
killed writer left behind, whatever the clock says, and the next writer removes it. Folders are made and removed under
one more lock, so that nobody mistakes a folder that is just being made for an abandoned one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from dataplane.hints import TYPE_CHECKING
from dataplane.store.layout import Layout, naming

if TYPE_CHECKING:
    from typing import Self

LOCK_NAME = "lock"


class Workspace:
    """A locked folder for the files of one import. Leaving it removes the folder."""

    def __init__(self, layout: Layout) -> None:
        self.path = layout.temporary / os.urandom(8).hex()
        self._lock = -1
        with naming(self.path, "creating"), held(layout.temporary / LOCK_NAME):
            remove_abandoned(layout)
            try:
                self.path.mkdir()
                self._lock = open_lock(self.path / LOCK_NAME)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.close()
                raise

    def close(self) -> None:
        """Remove the folder and drop the lock; a second call does nothing."""
        remove_tree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_abandoned(folder: Path) -> bool:
    """Tell whether a writer's folder is gone, or nobody holds its lock."""
    try:
        lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def open_lock(path: Path) -> int:
    """Return a descriptor of a lock file, which is created when missing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for it."""
    lock = open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def trying_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path` and give True; without `wait`, give False when another process holds it."""
    with naming(path, "locking"):
        lock = open_lock(path)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(lock)


def remove_abandoned(layout: Layout) -> None:
    """Remove the folders of writers that are gone; the lock of the parent folder is held."""
    for folder in sorted(layout.temporary.iterdir()):
        if folder.name == LOCK_NAME:
            continue
        with contextlib.suppress(OSError):  # a folder that resists is garbage, not a reason to refuse work
            remove_if_abandoned(folder)


def remove_if_abandoned(folder: Path) -> None:
    """Remove a writer's folder; raises BlockingIOError when its lock is held."""
    lock = open_lock(folder / LOCK_NAME)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_tree(folder)
    finally:
        os.close(lock)


def remove_tree(folder: Path, *, ignore_errors: bool = False) -> None:
    """Remove a folder and what is in it; raises OSError unless errors are ignored."""
    import shutil  # it brings every compressor there is, and most verbs never have a folder to remove

    shutil.rmtree(folder, ignore_errors=ignore_errors)
