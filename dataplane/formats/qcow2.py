"""Qcow2Source: a qcow2 image without a backing file; its two levels of tables become extents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dataplane.byte_reader import ByteReader
from dataplane.errors import InvalidImage
from dataplane.extent import COLUMN_COUNT, COLUMNS, ExtentKind
from dataplane.formats.batches import Batcher, Rows, empty_rows
from dataplane.formats.qcow2_header import read_header
from dataplane.image_source import ImageSource
from dataplane.limits import SECTOR_SIZE
from dataplane.readers.gather import gather

_L1_ENTRIES_AT_ONCE = 1 << 16
"""Entries of the L1 table in memory at a time: 512 KiB."""

_L2_ENTRIES_AT_ONCE = 1 << 16
"""Entries of L2 tables turned into rows at a time; with numpy's temporaries about 20 MiB."""

_OFFSET_MASK = np.uint64(0x00FF_FFFF_FFFF_FE00)
_L1_RESERVED = np.uint64(0x7F00_0000_0000_01FF)
_L2_RESERVED = np.uint64(0x3F00_0000_0000_01FE)  # of a standard entry
_L2_COMPRESSED = np.uint64(1 << 62)
_L2_ZERO = np.uint64(1)

Entries = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]
Offsets = npt.NDArray[np.int64]

_AT = {name: index for index, name in enumerate(COLUMNS)}


class Qcow2Source(ImageSource):
    """A qcow2 image of version 2 or 3 in one file.

    ``virtual_size`` is the header's, rounded up to 512 bytes; what rounding adds reads as zeros. Reads past the end
    of the file are never zeros: a table or cluster that is not wholly there makes the image invalid.
    """

    format = "qcow2"

    def __init__(self, reader: ByteReader) -> None:
        """Read the header of ``reader``, which ``close`` closes.

        Raises InvalidImage or Unsupported as ``read_header`` does; ``reader`` is then still the caller's.
        """
        self._header = read_header(reader)
        self._reader = reader
        self.readers = (reader,)
        self.virtual_size = -(-self._header.virtual_size // SECTOR_SIZE) * SECTOR_SIZE
        # Whether any cluster is compressed is only known when the last table has been read.
        self.decoded_size_max = self._header.cluster_size

    def extents(self) -> Iterator[memoryview]:
        """Yield batches while tables are read, a few hundred KiB of them at a time.

        Raises InvalidImage when a table breaks the rules of the format or points outside the file.
        """
        batcher = Batcher()
        budget = _SpaceBudget(self._reader)
        for rows, known_end in self._mapped(budget):
            yield from batcher.add(rows, known_end)
        tail = empty_rows()
        if self.virtual_size > self._header.virtual_size:
            tail = np.zeros((1, COLUMN_COUNT), dtype=np.int64)
            tail[0, _AT["offset"]] = self._header.virtual_size
            tail[0, _AT["length"]] = self.virtual_size - self._header.virtual_size
            tail[0, _AT["kind"]] = ExtentKind.ZERO
        yield from batcher.finish(tail, self.virtual_size)

    def _mapped(self, budget: _SpaceBudget) -> Iterator[tuple[Rows, int]]:
        """Yield rows of mapped clusters, and up to where (bytes) everything is known with them."""
        header = self._header
        tables_at_once = max(1, _L2_ENTRIES_AT_ONCE // header.l2_entries)
        for first, entries in self._l1_slices():
            present = np.flatnonzero(entries)
            tables = (entries[present] & _OFFSET_MASK).astype(np.int64)
            for at in range(0, len(present), tables_at_once):
                group = slice(at, at + tables_at_once)
                bases = (first + present[group]) * (header.cluster_size * header.l2_entries)
                yield from self._tables(bases, tables[group], budget)
            described = (first + len(entries)) * header.cluster_size * header.l2_entries
            yield empty_rows(), min(described, header.virtual_size)

    def _l1_slices(self) -> Iterator[tuple[int, Entries]]:
        """Yield the L1 table in slices: the index of the first entry, and checked entries."""
        header = self._header
        needed = -(-header.virtual_size // (header.cluster_size * header.l2_entries))
        for first in range(0, needed, _L1_ENTRIES_AT_ONCE):
            count = min(_L1_ENTRIES_AT_ONCE, needed - first)
            table = self._reader.read_at(header.l1_offset + 8 * first, 8 * count)
            entries = np.frombuffer(table, dtype=">u8").astype(np.uint64)
            self._refuse(entries & _L1_RESERVED != 0, first, "L1 entry {} has reserved bits set")
            offsets = (entries & _OFFSET_MASK).astype(np.int64)
            self._refuse(offsets % header.cluster_size != 0, first, "L1 entry {} does not point at a cluster")
            # Bit 63 alone points nowhere; an offset of 0 is an absent table.
            entries[offsets == 0] = 0
            self._refuse(
                offsets > self._reader.size - header.cluster_size,
                first,
                "the L2 table of L1 entry {} is not in the file, which is cut short or damaged",
            )
            yield first, entries

    def _tables(self, bases: Offsets, tables: Offsets, budget: _SpaceBudget) -> Iterator[tuple[Rows, int]]:
        """Yield the rows of L2 tables at ``tables`` in the file, whose first clusters lie at ``bases`` of the disk."""
        header = self._header
        budget.take(len(tables) * header.cluster_size, "L2 tables")
        held = gather(self._reader, tables.tolist(), header.cluster_size)
        entries = np.frombuffer(held, dtype=">u8")
        steps = np.arange(header.l2_entries, dtype=np.int64) * header.cluster_size
        guests = (bases[:, None] + steps[None, :]).reshape(-1)
        for at in range(0, len(entries), _L2_ENTRIES_AT_ONCE):
            guest = guests[at : at + _L2_ENTRIES_AT_ONCE]
            piece = entries[at : at + _L2_ENTRIES_AT_ONCE].astype(np.uint64)
            # Entries behind the end of the disk mean nothing.
            inside = int(np.searchsorted(guest, header.virtual_size))
            if inside:
                known_end = min(int(guest[inside - 1]) + header.cluster_size, header.virtual_size)
                yield self._rows(guest[:inside], piece[:inside], budget), known_end

    def _rows(self, guest: Offsets, entries: Entries, budget: _SpaceBudget) -> Rows:
        """Return a row for each entry that is ZERO or DATA; ``guest`` has the clusters' offsets on the disk."""
        header = self._header
        compressed = (entries & _L2_COMPRESSED) != 0
        standard = ~compressed
        zero = standard & ((entries & _L2_ZERO) != 0)
        hosts = (entries & _OFFSET_MASK).astype(np.int64)
        plain = standard & ~zero & (hosts != 0)
        lengths = np.minimum(header.cluster_size, header.virtual_size - guest)

        self._refuse_at(standard & ((entries & _L2_RESERVED) != 0), guest, "has reserved bits set in its L2 entry")
        if header.version == 2:
            self._refuse_at(zero, guest, "is a zero cluster, which version 2 does not have")
        unaligned = standard & (hosts % header.cluster_size != 0)
        self._refuse_at(unaligned, guest, "does not begin at a cluster of the file")
        # A last cluster may lack what lies behind the end of the disk, and nothing else.
        self._refuse_at(plain & (hosts > self._reader.size - lengths), guest, "is not in the file, which is cut short")
        budget.take(int(lengths[plain].sum()), "clusters")

        rows = np.zeros((len(guest), COLUMN_COUNT), dtype=np.int64)
        rows[:, _AT["offset"]] = guest
        rows[:, _AT["length"]] = lengths
        rows[:, _AT["kind"]] = np.where(zero, ExtentKind.ZERO, ExtentKind.DATA)
        rows[plain, _AT["source_offset"]] = hosts[plain]
        rows[plain, _AT["source_length"]] = lengths[plain]
        if compressed.any():
            budget.take(int(compressed.sum()) * max(4, header.cluster_size >> 15), "compressed clusters")
            self._describe_compressed(rows, compressed, entries)
        mapped: Rows = rows[zero | plain | compressed]
        return mapped

    def _describe_compressed(self, rows: Rows, compressed: Flags, entries: Entries) -> None:
        """Fill in where the compressed clusters among ``rows`` are; their lengths are bounds, in sectors."""
        header = self._header
        offset_bits = 62 - (header.cluster_bits - 8)
        described = entries[compressed] & ~(_L2_COMPRESSED | np.uint64(1 << 63))
        offsets = (described & np.uint64((1 << offset_bits) - 1)).astype(np.int64)
        sectors = (described >> np.uint64(offset_bits)).astype(np.int64) + 1
        guest = rows[compressed, _AT["offset"]]
        self._refuse_at(offsets >= self._reader.size, guest, "is compressed and not in the file, which is cut short")
        lengths = sectors * SECTOR_SIZE - offsets % SECTOR_SIZE
        # The last sector of the last cluster need not be wholly there.
        rows[compressed, _AT["source_length"]] = np.minimum(lengths, self._reader.size - offsets)
        rows[compressed, _AT["source_offset"]] = offsets
        rows[compressed, _AT["codec"]] = header.codec
        rows[compressed, _AT["decoded_length"]] = header.cluster_size

    def _refuse(self, wrong: Flags, first: int, problem: str) -> None:
        """Raise InvalidImage when any of ``wrong`` is set; ``problem`` has a place for the entry's index."""
        if wrong.any():
            raise InvalidImage(f"{self._reader.name}: {problem.format(first + int(np.argmax(wrong)))}")

    def _refuse_at(self, wrong: Flags, guest: Offsets, problem: str) -> None:
        """Raise InvalidImage that names the first cluster for which ``wrong`` is set."""
        if wrong.any():
            where = int(guest[int(np.argmax(wrong))])
            raise InvalidImage(f"{self._reader.name}: the cluster for offset {where} of the disk {problem}")


class _SpaceBudget:
    """Notices an image whose tables name more than the file holds: a small file must not stand for endless work.

    Each L2 table and each cluster of an image has a place of its own, so together they fit the file. Of a compressed
    cluster only a lower bound of its size is known: 4 bytes, and no codec gains more than a factor of 2^15.
    """

    def __init__(self, reader: ByteReader) -> None:
        self._name = reader.name
        self._left = reader.size

    def take(self, size: int, what: str) -> None:
        """Count ``size`` more bytes; raises InvalidImage when the file cannot hold them all apart."""
        self._left -= size
        if self._left < 0:
            raise InvalidImage(f"{self._name}: its tables name more {what} than the file can hold; some overlap")
