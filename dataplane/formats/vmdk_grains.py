"""Grains of a sparse VMDK extent: its directory and tables, read a slice at a time, become rows."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from dataplane.byte_reader import ByteReader
from dataplane.errors import InvalidImage
from dataplane.extent import ExtentCodec
from dataplane.formats.batches import Rows, empty_rows
from dataplane.formats.tables import (
    AT,
    ENTRIES_AT_ONCE,
    Known,
    Numbers,
    SpaceBudget,
    check_all,
    data_rows,
    make_zero,
)
from dataplane.formats.vmdk_header import SparseHeader
from dataplane.limits import SECTOR_SIZE
from dataplane.readers.gather import gather

_ZERO_GRAIN = 1  # where no grain can be: the sector after the header's
_MARKER_SIZE = 12  # of a grain: its first sector on the disk, 8 bytes, and the size of what follows, 4 bytes
_MARKER = np.dtype([("sector", "<u8"), ("size", "<u4")])

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

    def rows(self, budget: SpaceBudget) -> Iterator[Known]:
        """Yield rows while tables are read, 256 KiB of them at a time; ``budget`` is that of the reader.

        Raises InvalidImage when a table breaks the rules of the format or points outside the file.
        """
        header = self._header
        tables_at_once = max(1, ENTRIES_AT_ONCE // header.table_entries)
        for first in range(0, header.directory_entries, ENTRIES_AT_ONCE):
            count = min(ENTRIES_AT_ONCE, header.directory_entries - first)
            held = self._reader.read_at(header.directory_offset + 4 * first, 4 * count)
            directory = np.frombuffer(held, dtype="<u4").astype(np.int64) * SECTOR_SIZE
            present = np.flatnonzero(directory)
            for at in range(0, len(present), tables_at_once):
                group = present[at : at + tables_at_once]
                rows = self._tables(first + group, directory[group], budget)
                known = int(first + group[-1] + 1) * header.table_span
                yield rows, self._base + min(known, self._size)
            yield empty_rows(), self._base + min((first + count) * header.table_span, self._size)

    def _tables(self, numbers: Numbers, tables: Numbers, budget: SpaceBudget) -> Rows:
        """Return the rows of the grain tables at ``tables`` in the file, which have these ``numbers``."""
        header = self._header
        length = 4 * header.table_entries
        outside = tables > self._reader.size - length
        problem = "grain table {} is not in the file, which is cut short or damaged"
        check_all(self._reader.name, outside, numbers, problem)
        budget.take(len(tables) * length, "grain tables")
        held = gather(self._reader, tables.tolist(), length)
        entries = np.frombuffer(held, dtype="<u4").astype(np.int64)
        steps = np.arange(header.table_entries, dtype=np.int64) * header.grain_size
        guests = (numbers[:, None] * header.table_span + steps[None, :]).reshape(-1)
        # Entries behind the end of the disk mean nothing.
        kept = (entries != 0) & (guests < self._size)
        return self._grains(guests[kept], entries[kept], budget)

    def _grains(self, guests: Numbers, entries: Numbers, budget: SpaceBudget) -> Rows:
        """Return a row for each of ``entries``; ``guests`` has the grains' offsets in the extent."""
        header = self._header
        zero = entries == _ZERO_GRAIN
        if not header.has_zero_grains:
            problem = "the grain for offset {} lies in the header, and the flag for zeroed grains is not set"
            check_all(self._reader.name, zero, guests, problem)
        lengths = np.minimum(header.grain_size, self._size - guests)
        hosts = entries * SECTOR_SIZE
        stored = _MARKER_SIZE * header.has_markers + 1 if header.compressed else lengths
        outside = ~zero & (hosts > self._reader.size - stored)
        problem = "the grain for offset {} is not in the file, which is cut short or damaged"
        check_all(self._reader.name, outside, guests, problem)
        rows = data_rows(self._base + guests, lengths, hosts, reader=self.index)
        make_zero(rows, zero)
        if not header.compressed:
            budget.take(int(lengths[~zero].sum()), "grains")
        elif not zero.all():
            least = max(SECTOR_SIZE, header.grain_size // _DEFLATE_GAIN_MAX)
            budget.take(int((~zero).sum()) * least, "compressed grains")
            rows[~zero] = self._describe(rows[~zero], guests[~zero], hosts[~zero])
        return rows

    def _describe(self, rows: Rows, guests: Numbers, hosts: Numbers) -> Rows:
        """Fill in where the compressed grains of ``rows`` are and how long."""
        header = self._header
        starts = hosts + _MARKER_SIZE * header.has_markers
        if header.has_markers and self._reader.fileno() is not None:
            sizes = self._marked_sizes(guests, hosts)
        else:
            # Over a network a look at every marker would fetch the file twice. What follows the stream is ignored,
            # so the distance to the next grain serves as a bound.
            places = np.unique(hosts)
            behind = np.append(places, self._reader.size)[np.searchsorted(places, hosts, side="right")]
            sizes = np.minimum(behind - starts, 2 * header.grain_size)
            problem = "the grain for offset {} overlaps another one"
            check_all(self._reader.name, sizes <= 0, guests, problem)
        rows[:, AT["codec"]] = ExtentCodec.ZLIB
        rows[:, AT["source_offset"]] = starts
        rows[:, AT["source_length"]] = sizes
        rows[:, AT["decoded_length"]] = header.grain_size
        if rows[-1, AT["length"]] < header.grain_size:
            rows[-1, AT["decoded_length"]] = self._last_length(rows[-1])
        return rows

    def _marked_sizes(self, guests: Numbers, hosts: Numbers) -> Numbers:
        """Return the sizes of compressed grains that the markers in front of them tell, checked."""
        held = gather(self._reader, hosts.tolist(), _MARKER_SIZE)
        markers = np.frombuffer(held, dtype=_MARKER)
        name = self._reader.name
        misplaced = markers["sector"] != (guests // SECTOR_SIZE).astype(np.uint64)
        check_all(name, misplaced, guests, "the grain for offset {} has the marker of another place of the disk")
        sizes = markers["size"].astype(np.int64)
        odd = (sizes == 0) | (sizes > 2 * self._header.grain_size)
        check_all(name, odd, guests, "the marker of the grain for offset {} has an impossible size")
        outside = hosts + _MARKER_SIZE > self._reader.size - sizes
        check_all(name, outside, guests, "the grain for offset {} ends behind the file, which is cut short")
        return sizes

    def _last_length(self, row: Rows) -> int:
        """Return how many bytes the last grain of a disk decodes to: writers differ on what lies behind the end."""
        packed = self._reader.read_at(int(row[AT["source_offset"]]), int(row[AT["source_length"]]))
        try:
            length = len(zlib.decompressobj().decompress(packed, self._header.grain_size + 1))
        except zlib.error as error:
            raise InvalidImage(f"{self._reader.name}: the last grain does not decode: {error}") from error
        if not row[AT["length"]] <= length <= self._header.grain_size:
            raise InvalidImage(f"{self._reader.name}: the last grain decodes to {length} bytes or more, not a grain")
        return length
