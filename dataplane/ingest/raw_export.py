"""Writing a stored image as raw: to a file or block device by several threads, or to a stream in order."""

from __future__ import annotations

import io
import select
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

from dataplane.engine.blockio import write_ranges
from dataplane.engine.window import Window
from dataplane.hints import TYPE_CHECKING
from dataplane.ingest.crew import run_crew
from dataplane.ingest.progress import Progress
from dataplane.ingest.turns import Turns
from dataplane.ingest.verified_windows import VerifiedWindows, data_runs
from dataplane.limits import MIB
from dataplane.store.layout import naming
from dataplane.store.stored_image import StoredImage

if TYPE_CHECKING:
    from typing import BinaryIO

ZERO_BLOCK = memoryview(bytes(MIB))


class RawExport:
    """One export into a descriptor, where offsets are those of the disk."""

    def __init__(
        self,
        image: StoredImage,
        fd: int,
        path: Path,
        *,
        zero: Callable[[int, int], None] | None,
        progress: Progress,
        cancelled: threading.Event | None,
    ) -> None:
        """`zero(start, stop)` makes bytes of the target read as zeros; None when they do already."""
        self._windows = VerifiedWindows(image, progress, cancelled)
        self._end = image.virtual_size
        self._fd = fd
        self._path = path
        self._zero = zero
        self._progress = progress
        self._lock = threading.Lock()
        self.bytes_written = 0

    def run(self, threads: int) -> None:
        """Write everything; raises Corrupt, NoSpace, IoFailed or Cancelled."""
        run_crew(self._work, threads, self._windows.stop)
        if self._zero is not None:
            self._zero(self._windows.end, self._end)
        self._progress.position_bytes = self._end

    def _work(self) -> None:
        window = self._windows.window()
        while (claim := self._windows.claim()) is not None:
            self._windows.load(claim, window)
            rows = array("q")
            for start, stop in data_runs(window):
                rows.extend((window.offset + start, stop - start, start))
            if rows:
                with naming(self._path, "writing"):
                    write_ranges(self._fd, memoryview(rows).cast("B").cast("q", (len(rows) // 3, 3)), window.plain)
            if self._zero is not None:
                self._zero_between(rows, claim.note.gap_start, window.offset + window.length)
            written = sum(rows[1::3])
            with self._lock:
                self.bytes_written += written
                self._progress.written_bytes += written
                self._progress.read_bytes += window.read_bytes

    def _zero_between(self, rows: array[int], position: int, end: int) -> None:
        """Zero what lies in [position, end) and in none of the ranges written."""
        assert self._zero is not None  # noqa: S101 - asked by the caller
        for start, length in zip(rows[::3], rows[1::3], strict=True):
            if start > position:
                self._zero(position, start)
            position = start + length
        if end > position:
            self._zero(position, end)


class StreamExport:
    """One export into a stream: windows are decoded by several threads and written in disk order."""

    def __init__(
        self,
        image: StoredImage,
        stream: BinaryIO | io.RawIOBase,
        *,
        progress: Progress,
        cancelled: threading.Event | None,
    ) -> None:
        self._windows = VerifiedWindows(image, progress, cancelled)
        self._end = image.virtual_size
        self._stream = stream
        self._progress = progress
        self._turns = Turns()
        self._position = 0

    def run(self, threads: int) -> None:
        """Write everything, a window a thread in memory at most; raises Corrupt, NoSpace, IoFailed or Cancelled."""
        run_crew(self._work, threads, self._stop)
        with naming("the stream", "writing"):
            self._write_zeros(self._end - self._position)
            self._stream.flush()
        self._progress.position_bytes = self._end

    def _stop(self) -> None:
        self._windows.stop()
        self._turns.stop()

    def _work(self) -> None:
        window = self._windows.window()
        while (claim := self._windows.claim()) is not None:
            self._windows.load(claim, window)
            with self._turns.turn(claim.note.number) as mine, naming("the stream", "writing"):
                if not mine:
                    return
                self._write(window)
                self._progress.written_bytes = self._position
                self._progress.read_bytes += window.read_bytes

    def _write(self, window: Window) -> None:
        self._write_zeros(window.offset - self._position)
        self._position = window.offset
        for start, stop in data_runs(window):
            self._write_zeros(window.offset + start - self._position)
            self._write_all(window.plain[start:stop])
            self._position = window.offset + stop

    def _write_zeros(self, count: int) -> None:
        while count > 0:
            self._write_all(ZERO_BLOCK[: min(count, MIB)])
            count -= MIB

    def _write_all(self, data: memoryview) -> None:
        """Write all of `data`; an unbuffered stream may take less at a time, or none just now."""
        while data:
            taken = self._stream.write(data)
            if taken is None:
                select.select([], [self._stream], [])
                continue
            data = data[taken:]
