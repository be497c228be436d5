"""The files of pooled images: for each root what is read first, decoded, and a trace of what the first disk of it read.

Nothing depends on them: what is missing is read from the store, and made anew while a pooled image has that root.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from dataplane import BootTrace, Pool, Store, build_pool, load_trace, open_pool
from dataplane.errors import AlreadyExists, DataplaneError, InvalidImage, IoFailed, SourceUnavailable
from service.log import get_logger

POOL_SUFFIX = ".pool"
TRACE_SUFFIX = ".trace"
TRACE_SIZE_MIN = 1 << 20
"""Bytes that a disk must have read before what it read counts as how the image is used."""

POOL_SIZE_MIN = 4096
"""Size of a pool that has no room for anything."""

ABANDONED_S = 3600.0
"""How old a file is that no builder can be writing any more."""

log = get_logger(__name__)


class PoolFiles:
    """The files of one folder. Safe for concurrent use, by several servers too."""

    def __init__(self, folder: Path, store: Store, *, size_max: int, total_max: int) -> None:
        """`size_max` bounds the file of one root, in bytes, and `total_max` all of them."""
        self._folder = folder
        self._store = store
        self._size_max = size_max
        self._total_max = total_max

    def prepare(self) -> None:
        """Make the folder if it is missing. Raises IoFailed."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise IoFailed(f"cannot make the folder {self._folder}: {error.strerror}") from error

    def path(self, root: bytes, suffix: str = POOL_SUFFIX) -> Path:
        """Return where the file of a root is, or its trace."""
        return self._folder / f"{root.hex()}{suffix}"

    def open(self, root: bytes) -> Pool | None:
        """Return the pool of a root; None when it has none that can be used. What is damaged goes, to be made anew."""

        def report(reason: str) -> None:
            log.warning("pool removed", reason=reason)
            _remove(self.path(root))

        return open_pool(self.path(root), root, report)

    def trace_for(self, root: bytes) -> BootTrace | None:
        """Return what is to record the reads of a disk, None when its image is not pooled or has a trace already."""
        wanted = self.path(root).exists() and not self.path(root, TRACE_SUFFIX).exists()
        return BootTrace() if wanted else None

    def save_trace(self, root: bytes, trace: BootTrace) -> None:
        """Keep what a disk read, if that is enough to go by; the file of its root is then made anew from that."""
        if sum(length for _, length in trace.ranges()) < TRACE_SIZE_MIN or not self.path(root).exists():
            return
        try:
            trace.save(self.path(root, TRACE_SUFFIX))
        except AlreadyExists:  # another disk was quicker
            return
        except DataplaneError as error:
            log.warning("boot trace not kept", reason=str(error))

    def is_current(self, root: bytes) -> bool:
        """Say whether the file of a root is there, not older than its trace, and not too large."""
        made = _modified_ns(self.path(root))
        is_fresh = made is not None and made >= (_modified_ns(self.path(root, TRACE_SUFFIX)) or 0)
        return is_fresh and self._size(root) <= max(self._size_max, POOL_SIZE_MIN)

    def build(self, image_id: str, root: bytes) -> bool:
        """Make the file of a root from an image that has it; False when there is no room. Raises DataplaneError."""
        if self.usage()[1] - self._size(root) + self._size_max > self._total_max:
            return False
        size = build_pool(self._store, image_id, self.path(root), size_max=self._size_max, ranges=self._ranges(root))
        log.info("image pooled", resource_id=image_id, size=size)
        return True

    def _size(self, root: bytes) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self.path(root).stat().st_size
        return 0

    def _ranges(self, root: bytes) -> list[tuple[int, int]]:
        try:
            return load_trace(self.path(root, TRACE_SUFFIX))
        except SourceUnavailable:
            pass
        except InvalidImage as error:
            log.warning("boot trace removed", reason=str(error))
            _remove(self.path(root, TRACE_SUFFIX))
        return []

    def remove_all_but(self, roots: set[bytes]) -> None:
        """Remove the files of all other roots, and what killed builders have left."""
        names = {root.hex() for root in roots}
        for path in self._paths():
            name, _, kind = path.name.partition(".")
            if f".{kind}" in (POOL_SUFFIX, TRACE_SUFFIX):
                if name not in names:
                    _remove(path)
                    log.info("pool file removed", file=path.name)
            elif time.time() - (_modified_ns(path) or 0) / 1e9 > ABANDONED_S:
                _remove(path)

    def usage(self) -> tuple[int, int]:
        """Return how many roots have a file, and how many bytes these have together."""
        count = size = 0
        for path in self._paths():
            if path.suffix == POOL_SUFFIX:
                with contextlib.suppress(FileNotFoundError):
                    size += path.stat().st_size
                    count += 1
        return count, size

    def _paths(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            return [Path(entry.path) for entry in os.scandir(self._folder)]
        return []


def _modified_ns(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return None


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("pool file not removed", file=path.name, reason=error.strerror)
