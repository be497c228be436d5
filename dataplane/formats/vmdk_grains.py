"""Grains of a sparse VMDK extent: its directory and tables, read a slice at a time, become rows."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator, Sequence

from dataplane.byte_reader import ByteReader
from dataplane.engine.batches import BatchBuilder
from dataplane.engine.grain_map import GrainMap
from dataplane.errors import InvalidImage
from dataplane.formats.tables import ENTRIES_AT_ONCE, SpaceBudget, faults_of
from dataplane.formats.vmdk_header import SparseHeader
from dataplane.limits import SECTOR_SIZE
from dataplane.readers.gather import gather

_MARKER_SIZE = 12  # of a grain: its first sector on the disk, 8 bytes, and the size of what follows, 4 bytes

_DEFLATE_GAIN_MAX = 1040
"""Deflate never gains more, so a compressed grain has at least this part of its bytes in the file."""


class Grains:
    """The grains of one sparse extent, which is ``size`` bytes of the disk from ``base`` on."""

    def __init__(self, reader: ByteReader, header: SparseHeader, *, index: int, base: int, size: int) -> None:
        """Take a checked header; ``index`` is the reader's number, ``size`` at most the header's capacity."""
        self._reader = reader
        self._header = header
        self.index = index
        self._base = base
        self._size = size

    def add_rows(self, rows: BatchBuilder, budget: SpaceBudget) -> Iterator[int]:
        """Add rows while tables are read, 256 KiB of them at a time; ``budget`` is that of the reader.

        Yields up to where (bytes of the disk) all is there. Raises InvalidImage when a table breaks the rules of the
        format or points outside the file.
        """
        header, grain_map = self._header, self._map(rows)
        rows.allocation = budget.allocation
        tables_at_once = max(1, ENTRIES_AT_ONCE // header.table_entries)
        for first in range(0, header.directory_entries, ENTRIES_AT_ONCE):
            count = min(ENTRIES_AT_ONCE, header.directory_entries - first)
            directory = self._reader.read_at(header.directory_offset + 4 * first, 4 * count)
            with faults_of(self._reader.name):
                found = grain_map.tables(directory, first, budget.allocation).tolist()
            numbers, places = found[::2], found[1::2]
            for at in range(0, len(numbers), tables_at_once):
                group = slice(at, at + tables_at_once)
                with faults_of(self._reader.name):
                    self._add_tables(grain_map, numbers[group], places[group], budget)
                yield self._base + min((numbers[group][-1] + 1) * header.table_span, self._size)
            yield self._base + min((first + count) * header.table_span, self._size)

    def _map(self, rows: BatchBuilder) -> GrainMap:
        header = self._header
        return GrainMap(
            rows,
            base=self._base,
            size=self._size,
            grain_size=header.grain_size,
            table_entries=header.table_entries,
            reader=self.index,
            file_size=self._reader.size,
            has_zero_grains=header.has_zero_grains,
            room_min=_MARKER_SIZE * header.has_markers + 1 if header.compressed else 0,
        )

    def _add_tables(
        self, grain_map: GrainMap, numbers: Sequence[int], places: Sequence[int], budget: SpaceBudget
    ) -> None:
        """Add the rows of the grain tables at ``places`` in the file, which have these ``numbers``."""
        header = self._header
        length = 4 * header.table_entries
        budget.take_ranges(places, length, "grain tables")
        grains = grain_map.grains(array("q", numbers), gather(self._reader, places, length))
        if not header.compressed:
            budget.take(grain_map.add_plain(grains), "grains")
            return
        stored = self._stored(grain_map, grains)
        least = max(SECTOR_SIZE, header.grain_size // _DEFLATE_GAIN_MAX)
        budget.take(len(stored) // 2 * least, "compressed grains")
        last_length = 0
        if stored and grains[-1] and self._size - grains[-2] < header.grain_size:
            last_length = self._decoded_length(stored[-2], stored[-1], self._size - grains[-2])
        grain_map.add_packed(grains, stored, last_length)

    def _stored(self, grain_map: GrainMap, grains: memoryview) -> memoryview:
        """Return where the compressed ``grains`` are and how long at the most, as flat pairs."""
        header = self._header
        if not header.has_markers:
            return grain_map.bounded(grains, 0)
        if self._reader.fileno() is None:
            # Over a network a look at every marker would fetch the file twice. What follows the stream is ignored,
            # so the distance to the next grain serves as a bound.
            return grain_map.bounded(grains, _MARKER_SIZE)
        places = [place for place in grains[1::2].tolist() if place]
        return grain_map.marked(grains, gather(self._reader, places, _MARKER_SIZE))

    def _decoded_length(self, start: int, size: int, needed: int) -> int:
        """Return how many bytes the last grain of a disk decodes to: writers differ on what lies behind the end."""
        try:
            length = len(
                zlib.decompressobj().decompress(self._reader.read_at(start, size), self._header.grain_size + 1)
            )
        except zlib.error as error:
            raise InvalidImage(f"{self._reader.name}: the last grain does not decode: {error}") from error
        if not needed <= length <= self._header.grain_size:
            raise InvalidImage(f"{self._reader.name}: the last grain decodes to {length} bytes or more, not a grain")
        return length
