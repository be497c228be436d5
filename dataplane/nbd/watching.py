"""A device whose reads are watched: to read ahead of those who go through it in order, and to record boot traces."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from dataplane.disks.boot_trace import BootTrace
from dataplane.disks.disk import Span
from dataplane.errors import DataplaneError
from dataplane.limits import KIB, MIB
from dataplane.nbd.exports import BlockDevice

STREAMS_MAX = 32
SEQUENTIAL_SIZE = 512 * KIB
"""Bytes that have to be read one behind the other before more is read ahead."""

AHEAD_SIZE = 8 * MIB
STEP_SIZE = MIB
THREADS = 2


class _Stream:
    """Reads each of which begins where the one before it ended."""

    read = 0
    """Bytes read since somebody asked for more before the last answer; below 0 for a while after that."""
    under_way = 0
    warm_end = 0
    """How far it has been read ahead."""


class WatchedDevice:
    """A device with read-ahead, and with a trace of what was read when one is asked for."""

    def __init__(self, device: BlockDevice, trace: BootTrace | None = None) -> None:
        self._device = device
        self._trace = trace
        self._streams: OrderedDict[int, _Stream] = OrderedDict()  # by where they end
        self._executor = ThreadPoolExecutor(THREADS, "read-ahead")
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes there are."""
        return self._device.size

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return self._device.read_only

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset`."""
        with self._lock:
            stream = self._note(offset, len(view))
            stream.under_way += 1
        try:
            self._device.read_into(offset, view)
        finally:
            with self._lock:
                stream.under_way -= 1

    def read_cached(self, offset: int, view: memoryview) -> bool:
        """Fill `view` when that takes no wait, and tell whether it did; if not, ``read_into`` is what follows."""
        found = self._device.read_cached(offset, view)
        if found:
            with self._lock:
                self._note(offset, len(view))
        return found

    def extents(self, offset: int, length: int) -> Iterator[Span]:
        """Yield the runs that make up a range."""
        return self._device.extents(offset, length)

    def warm(self, offset: int, length: int) -> None:
        """Bring a range into memory."""
        self._device.warm(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Write `data`."""
        self._device.write(offset, data)

    def write_zeroes(self, offset: int, length: int) -> None:
        """Let a range read as zeros."""
        self._device.write_zeroes(offset, length)

    def trim(self, offset: int, length: int) -> None:
        """Give up what a range holds."""
        self._device.trim(offset, length)

    def flush(self) -> None:
        """Make everything written so far durable."""
        self._device.flush()

    def close(self) -> None:
        """Stop reading ahead; the device stays open."""
        self._executor.shutdown(cancel_futures=True)

    def _note(self, offset: int, length: int) -> _Stream:
        """Note a read and return its stream; the lock is held."""
        if self._trace is not None:
            self._trace.note(offset, length)
        stream = self._streams.pop(offset, None) or _Stream()
        end = offset + length
        # Who asks for more before the last answer reads ahead by itself: doing it again would be decoding twice.
        stream.read = -AHEAD_SIZE if stream.under_way else stream.read + length
        if stream.read >= SEQUENTIAL_SIZE:
            stream.warm_end = max(stream.warm_end, end)
            while stream.warm_end < min(end + AHEAD_SIZE, self._device.size):
                self._executor.submit(self._warm, stream.warm_end, STEP_SIZE)
                stream.warm_end += STEP_SIZE
        self._streams[end] = stream
        if len(self._streams) > STREAMS_MAX:
            self._streams.popitem(last=False)
        return stream

    def _warm(self, offset: int, length: int) -> None:
        with contextlib.suppress(DataplaneError):  # whoever reads it is told
            self._device.warm(offset, min(length, self._device.size - offset))
