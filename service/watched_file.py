"""A file that is read again when it changes, so that tokens, policies and certificates need no restart."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from dataplane.errors import DataplaneError, UsageError
from service.log import get_logger

T = TypeVar("T")

LOOK_S = 1.0
SIZE_MAX = 4 << 20
"""Bytes; such files are small, and a mistaken path should not fill the memory."""

log = get_logger(__name__)


class WatchedFile(Generic[T]):
    """What `parse` makes of a file's bytes, as new as one second. A version that does not parse changes nothing."""

    def __init__(self, path: Path, parse: Callable[[bytes], T], *, look_s: float = LOOK_S) -> None:
        """Read the file. Raises UsageError, naming it, when it cannot be read or does not parse."""
        self.path = path
        self._parse = parse
        self._look_s = look_s
        self._lock = threading.Lock()
        self._mark = _mark(path)
        self._value = self._load()
        self._looked_s = time.monotonic()

    def get(self) -> T:
        """Return the value of the newest version that parses."""
        if time.monotonic() - self._looked_s >= self._look_s:
            with self._lock:
                self._look()
        return self._value

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        try:
            mark = _mark(self.path)
            if mark == self._mark:
                return
            self._mark = mark  # before the read: a change during it is seen at the next look
            self._value = self._load()
            log.info("file read again", path=str(self.path))
        except DataplaneError as error:
            log.error("file not read again: the version before it stays in force", reason=str(error))

    def _load(self) -> T:
        try:
            content = read_guarded(self.path)
            return self._parse(content)
        except DataplaneError as error:
            raise UsageError(f"{self.path}: {error}") from error


def read_guarded(path: Path) -> bytes:
    """Return a small regular file that not everybody may change. Raises UsageError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise UsageError("is not a regular file")
        if about.st_mode & stat.S_IWOTH:
            raise UsageError("may be changed by everybody on this machine: chmod o-w")
        if about.st_size > SIZE_MAX:
            raise UsageError(f"is larger than {SIZE_MAX} bytes")
        return file.read(SIZE_MAX + 1)


def _mark(path: Path) -> tuple[int, int, int, int]:
    """Return what differs between versions of a file."""
    try:
        about = path.stat()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    return about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size
