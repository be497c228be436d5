"""What formats with tables of blocks share: rows from arrays, checks of whole arrays, and a budget of space."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dataplane.byte_reader import ByteReader
from dataplane.errors import InvalidImage
from dataplane.extent import COLUMN_COUNT, COLUMNS, ExtentKind
from dataplane.formats.batches import Batcher, Rows, empty_rows
from dataplane.limits import SECTOR_SIZE, VIRTUAL_SIZE_MAX

AT = {name: index for index, name in enumerate(COLUMNS)}
"""The index of each column of an extent."""

ENTRIES_AT_ONCE = 1 << 16
"""Entries of tables in memory at a time; as rows, with numpy's temporaries, about 20 MiB."""

_RANGES_AT_ONCE = 4095
"""Ranges asked of the file system at a time."""

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

Known = tuple[Rows, int]
"""Rows in the order of the disk, and up to where (bytes) everything is known with them."""


class SpaceBudget:
    """Notices tables that name more than their file holds: a small file must not stand for endless work.

    Each table and each block of an image has a place of its own, so together they fit the file.
    """

    def __init__(self, reader: ByteReader) -> None:
        self._name = reader.name
        self._left = reader.size

    def take(self, size: int, what: str) -> None:
        """Count ``size`` more bytes; raises InvalidImage when the file cannot hold them all apart."""
        self._left -= size
        if self._left < 0:
            raise InvalidImage(f"{self._name}: its tables name more {what} than the file can hold; some overlap")


def batches_of(known: Iterator[Known], virtual_size: int) -> Iterator[memoryview]:
    """Yield batches that cover ``[0, virtual_size)`` (bytes); what ``known`` leaves out is HOLE."""
    batcher = Batcher()
    for rows, known_end in known:
        yield from batcher.add(rows, known_end)
    yield from batcher.finish(empty_rows(), virtual_size)


def data_rows(offsets: Numbers, lengths: Numbers, sources: Numbers, *, reader: int = 0) -> Rows:
    """Return a row of plain data for each of ``offsets`` on the disk; all are in bytes."""
    rows = np.zeros((len(offsets), COLUMN_COUNT), dtype=np.int64)
    rows[:, AT["offset"]] = offsets
    rows[:, AT["length"]] = lengths
    rows[:, AT["kind"]] = ExtentKind.DATA
    rows[:, AT["reader"]] = reader
    rows[:, AT["source_offset"]] = sources
    rows[:, AT["source_length"]] = lengths
    return rows


def make_zero(rows: Rows, zero: Flags) -> None:
    """Turn those of ``rows`` that ``zero`` marks into ZERO rows."""
    rows[zero, AT["kind"] :] = 0
    rows[zero, AT["kind"]] = ExtentKind.ZERO


def zero_row(offset: int, length: int) -> Rows:
    """Return one ZERO row of ``length`` bytes at ``offset`` of the disk."""
    row = np.zeros((1, COLUMN_COUNT), dtype=np.int64)
    row[0, :3] = offset, length, ExtentKind.ZERO
    return row


def plain_rows(reader: ByteReader, source: int, length: int, *, offset: int = 0, index: int = 0) -> Iterator[Known]:
    """Yield rows for ``length`` bytes from ``source`` of ``reader`` that lie at ``offset`` of the disk as they are.

    The range is inside the reader, and starts and ends on sectors of the disk. Holes that the file system knows are
    left out; a few thousand ranges are in memory at a time. ``index`` is the number of the reader.
    """
    position, end = source, source + length
    while position < end:
        found = reader.data_ranges(position, end, _RANGES_AT_ONCE).cast("B").cast("q")
        ranges = np.array(found, dtype=np.int64).reshape(-1, 2)
        known = end
        if len(ranges) == _RANGES_AT_ONCE:
            # Cut down to a sector, so that the next look begins on one.
            known = int(ranges[-1].sum())
            known -= (known - source) % SECTOR_SIZE if known < end else 0
        if known <= position:
            known, ranges = end, np.array([[position, end - position]], dtype=np.int64)
        begins = (ranges[:, 0] - source) // SECTOR_SIZE * SECTOR_SIZE
        ends = np.minimum(-(-(ranges.sum(axis=1) - source) // SECTOR_SIZE) * SECTOR_SIZE, known - source)
        # Two ranges may share a sector.
        begins[1:] = np.maximum(begins[1:], ends[:-1])
        kept = ends > begins
        begins, ends = begins[kept], ends[kept]
        yield data_rows(offset + begins, ends - begins, source + begins, reader=index), offset + known - source
        position = known


def check_all(name: str, wrong: Flags, where: Numbers, problem: str) -> None:
    """Raise InvalidImage when any of ``wrong`` is set; ``problem`` has a place for the first such of ``where``."""
    if wrong.any():
        raise InvalidImage(f"{name}: {problem.format(int(where[int(np.argmax(wrong))]))}")


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
