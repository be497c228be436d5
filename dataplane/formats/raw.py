"""RawSource: an image that is the disk itself, byte for byte; its holes are those of the file system."""

from __future__ import annotations

from collections.abc import Iterator

from dataplane.byte_reader import ByteReader
from dataplane.errors import InvalidImage
from dataplane.extent import WINDOW_SIZE, Extent, ExtentKind, pack_batch
from dataplane.image_source import ImageSource
from dataplane.limits import SECTOR_SIZE, VIRTUAL_SIZE_MAX

_RANGES_MAX = 4095
"""Data ranges asked for at a time; with the holes between them a batch stays within 8,192 rows."""


class RawSource(ImageSource):
    """A raw disk. A part sector at its end is padded with zeros: ``virtual_size`` is rounded up to 512 bytes."""

    format = "raw"

    def __init__(self, reader: ByteReader) -> None:
        """Take over ``reader``, which ``close`` closes; raises InvalidImage when it is empty or too large."""
        if reader.size == 0:
            raise InvalidImage(f"{reader.name} is empty; an image holds at least one byte")
        if reader.size > VIRTUAL_SIZE_MAX:
            raise InvalidImage(f"{reader.name} has {reader.size} bytes; at most {VIRTUAL_SIZE_MAX} are accepted")
        self.readers = (reader,)
        self.virtual_size = -(-reader.size // SECTOR_SIZE) * SECTOR_SIZE

    def extents(self) -> Iterator[memoryview]:
        """Yield batches of at most 8,192 rows; the map of holes is asked for lazily, a batch at a time.

        Raises SourceUnavailable when the map cannot be read.
        """
        start, size = 0, self.readers[0].size
        while start < size:
            ranges, end = self._ranges_from(start)
            rows = list(_rows(ranges, start, end))
            if end == size < self.virtual_size:
                rows.append(Extent(size, self.virtual_size - size, ExtentKind.ZERO))
            yield pack_batch(rows)
            start = end

    def _ranges_from(self, start: int) -> tuple[list[tuple[int, int]], int]:
        """Return data ranges from ``start`` and where they end: the end of the file, or a multiple of WINDOW_SIZE."""
        reader = self.readers[0]
        flat = reader.data_ranges(start, reader.size, _RANGES_MAX).cast("B").cast("q").tolist()
        ranges = list(zip(flat[::2], flat[1::2], strict=True))
        if len(ranges) < _RANGES_MAX:
            return ranges, reader.size
        last_offset, last_length = ranges[-1]
        if last_offset + last_length == reader.size:
            return ranges, reader.size
        end = (last_offset + last_length) // WINDOW_SIZE * WINDOW_SIZE
        if end > start:
            return ranges, end
        # More ranges than fit a batch inside one window: holes so small are read like data.
        end = min(start + WINDOW_SIZE, reader.size)
        return [(start, end - start)], end


def _rows(ranges: list[tuple[int, int]], position: int, end: int) -> Iterator[Extent]:
    """Yield the extents of ``[position, end)``: data where a range lies, holes between; neighbours are one extent."""
    merged = _merged(ranges, end)
    for offset, length in merged:
        if offset > position:
            yield Extent(position, offset - position, ExtentKind.HOLE)
        yield Extent(offset, length, ExtentKind.DATA, source_offset=offset, source_length=length)
        position = offset + length
    if position < end:
        yield Extent(position, end - position, ExtentKind.HOLE)


def _merged(ranges: list[tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    """Yield ``ranges`` clipped to ``end``, those that touch as one."""
    held_offset = held_end = -1
    for offset, length in ranges:
        if offset >= end:
            break
        if offset == held_end:
            held_end = min(offset + length, end)
            continue
        if held_end > held_offset:
            yield held_offset, held_end - held_offset
        held_offset, held_end = offset, min(offset + length, end)
    if held_end > held_offset:
        yield held_offset, held_end - held_offset
