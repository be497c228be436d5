"""What formats with tables of blocks share: a builder of batches, checks, and a budget of space."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dataplane.byte_reader import ByteReader
from dataplane.engine.allocation import Allocation
from dataplane.engine.batches import BatchBuilder, MapFault
from dataplane.errors import InvalidImage
from dataplane.extent import WINDOW_SIZE, ExtentKind
from dataplane.limits import KIB, SECTOR_SIZE, VIRTUAL_SIZE_MAX

ROWS_MAX = 8192
"""Rows in one batch. A window has at most as many, because no extent but the last is shorter than a sector."""

ENTRIES_AT_ONCE = 1 << 16
"""Entries of tables in memory at a time; as rows and batches about 10 MiB."""

_RANGES_AT_ONCE = 4095
"""Ranges asked of the file system at a time."""


_HOLE_SIZE_MIN = 64 * KIB
"""Shorter holes are cheaper to read than to know of."""

_RANGES_MAX = 1 << 20
"""Ranges of data that are told apart, 16 bytes of memory each; behind the last one a file counts as full."""


class SpaceBudget:
    """Notices tables that name more than their file holds: a small file must not stand for endless work.

    Each table and each block of an image has a place of its own, so together they fit the file: not what its size says,
    but what it has besides holes. ``allocation`` tells these from data; None when all is data.
    """

    def __init__(self, reader: ByteReader) -> None:
        """Ask the file system for the holes of ``reader``; raises SourceUnavailable when it does not answer."""
        self._name = reader.name
        self.allocation = _allocation_of(reader) if reader.has_holes else None
        self._left = reader.size if self.allocation is None else self.allocation.data_bytes

    def take_ranges(self, offsets: Sequence[int], length: int, what: str) -> None:
        """Count the data in ranges of ``length`` bytes at ``offsets`` of the file; raises InvalidImage as ``take``."""
        whole = len(offsets) * length
        self.take(whole if self.allocation is None else self.allocation.stored(array("q", offsets), length), what)

    def take(self, size: int, what: str) -> None:
        """Count ``size`` more bytes of data; raises InvalidImage when the file cannot hold them all apart."""
        self._left -= size
        if self._left < 0:
            raise InvalidImage(f"{self._name}: its tables name more {what} than the file can hold; some overlap")


def _allocation_of(reader: ByteReader) -> Allocation:
    allocation = Allocation(reader.size, _HOLE_SIZE_MIN)
    position = 0
    while position < reader.size:
        if allocation.count >= _RANGES_MAX:
            allocation.add(memoryview(array("q", (position, reader.size - position))).cast("B").cast("q", (1, 2)))
            break
        ranges = reader.data_ranges(position, reader.size, _RANGES_AT_ONCE)
        if not ranges:
            break
        allocation.add(ranges)
        position = ranges[-1, 0] + ranges[-1, 1]
    return allocation


def new_rows(budget: SpaceBudget | None = None) -> BatchBuilder:
    """Return a builder of batches as ``ImageSource.extents`` promises them.

    Kernels that decode tables read nothing where the file of ``budget`` has holes.
    """
    rows = BatchBuilder(WINDOW_SIZE, ROWS_MAX)
    rows.allocation = None if budget is None else budget.allocation
    return rows


def batches_of(rows: BatchBuilder, known_ends: Iterator[int], virtual_size: int) -> Iterator[memoryview]:
    """Yield the batches of ``rows`` while ``known_ends`` adds to them and tells up to where (bytes) all is there.

    They cover ``[0, virtual_size)``; what is left out is HOLE.
    """
    for known_end in known_ends:
        yield from rows.take(known_end)
    yield from rows.take(virtual_size, last=True)


@contextmanager
def faults_of(name: str) -> Iterator[None]:
    """Turn what a kernel finds wrong with the tables of the image ``name`` into InvalidImage."""
    try:
        yield
    except MapFault as fault:
        raise InvalidImage(f"{name}: {fault}") from fault


def add_zeros(rows: BatchBuilder, offset: int, end: int) -> None:
    """Add zeros from ``offset`` to ``end`` (bytes) of the disk, if that is a range."""
    if end > offset:
        rows.add(offset, end - offset, ExtentKind.ZERO)


def add_plain(
    rows: BatchBuilder, reader: ByteReader, source: int, length: int, *, offset: int = 0, index: int = 0
) -> Iterator[int]:
    """Add rows for ``length`` bytes from ``source`` of ``reader`` that lie at ``offset`` of the disk as they are.

    The range is inside the reader, and starts and ends on sectors of the disk. Holes that the file system knows are
    left out; a few thousand ranges are in memory at a time. ``index`` is the number of the reader. Yields up to where
    (bytes of the disk) all is there.
    """
    position, end = source, source + length
    while position < end:
        flat = reader.data_ranges(position, end, _RANGES_AT_ONCE).cast("B").cast("q").tolist()
        ranges = list(zip(flat[::2], flat[1::2], strict=True))
        known = end
        if len(ranges) == _RANGES_AT_ONCE:
            # Cut down to a sector, so that the next look begins on one.
            known = sum(ranges[-1])
            known -= (known - source) % SECTOR_SIZE if known < end else 0
        if known <= position:
            known, ranges = end, [(position, end - position)]
        for start, size in ranges:
            begin = (start - source) // SECTOR_SIZE * SECTOR_SIZE
            stop = min(-(-(start + size - source) // SECTOR_SIZE) * SECTOR_SIZE, known - source)
            # Two ranges may share a sector.
            begin = max(begin, rows.end - offset)
            if stop > begin:
                rows.add(
                    offset + begin,
                    stop - begin,
                    ExtentKind.DATA,
                    reader=index,
                    source_offset=source + begin,
                    source_length=stop - begin,
                )
        yield offset + known - source
        position = known


def check_power(name: str, value: int, low: int, high: int, what: str) -> None:
    """Raise InvalidImage unless ``value`` (bytes) is a power of two from ``low`` to ``high``."""
    if not low <= value <= high or value & (value - 1):
        raise InvalidImage(f"{name}: {what} of {value} bytes is not a power of two from {low} to {high}")


def check_inside(reader: ByteReader, offset: int, length: int, what: str) -> None:
    """Raise InvalidImage unless ``length`` bytes at ``offset``, which hold ``what``, are in the file."""
    if offset < 0 or length < 0 or offset > reader.size - length:
        raise InvalidImage(
            f"{reader.name} is cut short or damaged: {what} of {length} bytes at {offset} is not inside its "
            f"{reader.size} bytes"
        )


def check_virtual_size(name: str, size: int) -> None:
    """Raise InvalidImage when a virtual size of ``size`` bytes is above any disk."""
    if size > VIRTUAL_SIZE_MAX:
        raise InvalidImage(f"{name}: a virtual size of {size} bytes is more than {VIRTUAL_SIZE_MAX}")
