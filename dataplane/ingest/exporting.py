"""Exporting: an image of a store becomes a raw file or stream again, every chunk verified before it is written."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dataplane.engine.blockio import write_ranges
from dataplane.engine.scan import ChunkState
from dataplane.engine.window import Window
from dataplane.errors import AlreadyExists, Corrupt, UsageError
from dataplane.extent import WINDOW_SIZE
from dataplane.ingest.crew import run_crew, thread_count
from dataplane.ingest.feed import Claim, Feed
from dataplane.ingest.progress import Progress
from dataplane.limits import MIB
from dataplane.store.layout import naming, sync_folder
from dataplane.store.store import Store
from dataplane.store.stored_image import StoredImage

DATA_RUNS = re.compile(b"[\\x%02x]+" % ChunkState.DATA)
ZERO_BLOCK = memoryview(bytes(MIB))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What an export wrote. `virtual_size` is the length of the target, `bytes_written` what was not a hole."""

    name: str
    root: bytes
    virtual_size: int
    bytes_written: int
    seconds: float


def export_image(
    store: Store,
    name: str,
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    sparse: bool = True,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> ExportResult:
    """Write image `name` to file `target` as raw; the file appears whole or not at all.

    An existing file is replaced only with `force`. With `sparse` zeros become holes, without they are written. Raises
    NotFound, AlreadyExists, UsageError (the target is not a regular file), Corrupt (a chunk does not verify; nothing is
    left), NoSpace, IoFailed or Cancelled.
    """
    path = Path(target)
    started = time.monotonic()
    check_target(path, force=force)
    with (
        store.reading(name) as pin,
        StoredImage(store, pin.root, pin.domain) as image,
        new_file(path) as fd,
    ):
        with naming(path, "sizing"):
            os.ftruncate(fd, image.virtual_size)
        export = FileExport(image, fd, path, sparse=sparse, progress=progress or Progress(), cancelled=cancelled)
        export.run(thread_count(threads))
    return ExportResult(
        name=name,
        root=pin.root,
        virtual_size=image.virtual_size,
        bytes_written=export.bytes_written,
        seconds=time.monotonic() - started,
    )


def export_stream(
    store: Store,
    name: str,
    stream: BinaryIO,
    *,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> ExportResult:
    """Write image `name` to a stream in disk order, zeros included. Raises as ``export_image`` does."""
    started = time.monotonic()
    progress = progress or Progress()
    with (
        store.reading(name) as pin,
        StoredImage(store, pin.root, pin.domain) as image,
        naming("the stream", "writing"),
    ):
        feed = verified_feed(image, progress, cancelled)
        window = Window(WINDOW_SIZE, image.root.chunk_size, image.key)
        position = 0
        while (claim := feed.claim()) is not None:
            load_verified(feed, claim, window)
            write_zeros(stream, window.offset - position)
            position = window.offset
            for start, stop in data_runs(window):
                write_zeros(stream, window.offset + start - position)
                stream.write(window.plain[start:stop])
                position = window.offset + stop
            progress.written_bytes = position
        write_zeros(stream, image.virtual_size - position)
        stream.flush()
    progress.position_bytes = image.virtual_size
    return ExportResult(
        name=name,
        root=pin.root,
        virtual_size=image.virtual_size,
        bytes_written=image.virtual_size,
        seconds=time.monotonic() - started,
    )


class FileExport:
    """One export into an open file."""

    def __init__(
        self,
        image: StoredImage,
        fd: int,
        path: Path,
        *,
        sparse: bool,
        progress: Progress,
        cancelled: threading.Event | None,
    ) -> None:
        self._image = image
        self._fd = fd
        self._path = path
        self._sparse = sparse
        self._progress = progress
        self._feed = verified_feed(image, progress, cancelled)
        self._lock = threading.Lock()
        self.bytes_written = 0

    def run(self, threads: int) -> None:
        """Write everything."""
        if not self._sparse:
            # Allocated first: what is not data then reads as zeros that occupy the disk, and a full disk shows at once.
            with naming(self._path, "allocating"):
                os.posix_fallocate(self._fd, 0, max(1, self._image.virtual_size))
        run_crew(self._work, threads, self._feed.stop)
        self._progress.position_bytes = self._image.virtual_size

    def _work(self) -> None:
        window = Window(WINDOW_SIZE, self._image.root.chunk_size, self._image.key)
        while (claim := self._feed.claim()) is not None:
            load_verified(self._feed, claim, window)
            rows = array("q")
            for start, stop in data_runs(window):
                rows.extend((window.offset + start, stop - start, start))
            if rows:
                with naming(self._path, "writing"):
                    write_ranges(self._fd, memoryview(rows).cast("B").cast("q", (len(rows) // 3, 3)), window.plain)
            with self._lock:
                written = sum(rows[1::3])
                self.bytes_written += written
                self._progress.written_bytes += written
                self._progress.read_bytes += window.read_bytes


def verified_feed(image: StoredImage, progress: Progress, cancelled: threading.Event | None) -> Feed[memoryview]:
    """Return a feed whose claims carry the ids that the window's chunks must hash to."""
    chunk_size = image.root.chunk_size

    def expected(offset: int, length: int) -> memoryview:
        image.forget_before(offset)
        return image.expected_ids(offset, -(-length // chunk_size))

    progress.total_bytes = image.virtual_size
    progress.stage = "reading"
    return Feed(image, expected, progress, cancelled)


def load_verified(feed: Feed[memoryview], claim: Claim[memoryview], window: Window) -> None:
    """Load a claimed window and compare every chunk with its id; raises Corrupt naming the place on the disk."""
    feed.load(claim, window)
    wrong = window.first_mismatch(claim.note)
    if wrong >= 0:
        at = window.offset + wrong * window.chunk_size
        raise Corrupt(f"the chunk at {at} of the image does not match its id: its pack is damaged")


def data_runs(window: Window) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) in bytes of the window for each run of chunks that hold data, clipped to the disk's end."""
    for run in DATA_RUNS.finditer(window.states):
        yield run.start() * window.chunk_size, min(run.end() * window.chunk_size, window.length)


def write_zeros(stream: BinaryIO, count: int) -> None:
    """Write `count` zero bytes."""
    while count > 0:
        stream.write(ZERO_BLOCK[: min(count, MIB)])
        count -= MIB


def check_target(path: Path, *, force: bool) -> None:
    """Raise unless a new file may take the place of `path`."""
    if path.exists():
        if not path.is_file():
            raise UsageError(f"{path} is not a regular file: export to a file, or to - for standard output")
        if not force:
            raise AlreadyExists(f"{path} exists: use --force to replace it")
    elif not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist: create it first")


@contextmanager
def new_file(path: Path) -> Iterator[int]:
    """Give a descriptor of a new file that becomes `path`, durably, when all went well, and goes otherwise."""
    partial = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.partial")
    with naming(path, "creating"):
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        yield fd
        with naming(path, "syncing"):
            os.fsync(fd)
            partial.rename(path)
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    finally:
        os.close(fd)
