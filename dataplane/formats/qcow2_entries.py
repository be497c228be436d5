"""Entries of qcow2's L2 tables, standard and extended, turned into rows of extents and checked on the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataplane.byte_reader import ByteReader
from dataplane.errors import InvalidImage
from dataplane.extent import COLUMN_COUNT, ExtentKind
from dataplane.formats.batches import Rows
from dataplane.formats.qcow2_header import Qcow2Header
from dataplane.formats.tables import AT, Flags, SpaceBudget
from dataplane.limits import SECTOR_SIZE

Entries = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

OFFSET_MASK = np.uint64(0x00FF_FFFF_FFFF_FE00)

SUBCLUSTERS = 32
"""Parts of a cluster with bits of their own, in an extended entry."""

_RESERVED = np.uint64(0x3F00_0000_0000_01FE)  # of a standard entry
_RESERVED_EXTENDED = np.uint64(0x3F00_0000_0000_01FF)  # there the bitmap says what is zero
_COPIED = np.uint64(1 << 63)
_COMPRESSED = np.uint64(1 << 62)
_ZERO = np.uint64(1)
_ALL = np.uint64(0xFFFF_FFFF)  # of the subclusters
_ZEROS_AT = np.uint64(32)  # the lower half of a bitmap says which are allocated, the upper which are zero

_COMPRESSED_SIZE_MIN = 4
_COMPRESSION_GAIN_LOG_MAX = 15
"""Of a compressed cluster only a lower bound of its size is known: 4 bytes, and no codec gains more than 2^15."""


@dataclass(frozen=True, slots=True)
class EntryDecoder:
    """Makes rows of the entries of one state of the disk. ``data`` holds the clusters, as reader ``data_index``."""

    header: Qcow2Header
    virtual_size: int  # of the state
    name: str  # of the image, for messages
    data: ByteReader
    data_index: int
    table_budget: SpaceBudget
    data_budget: SpaceBudget  # the same one, unless there is a data file

    def rows(self, guest: Offsets, entries: Entries, bitmaps: Entries | None) -> Rows:
        """Return rows for what is ZERO or DATA; ``guest`` has the clusters' offsets on the disk, all inside it.

        ``bitmaps`` are those of extended entries. Raises InvalidImage when an entry breaks the rules of the format.
        """
        compressed = (entries & _COMPRESSED) != 0
        hosts = (entries & OFFSET_MASK).astype(np.int64)
        self._check(guest, entries, compressed, hosts, bitmaps)
        if bitmaps is None:
            zero = ~compressed & ((entries & _ZERO) != 0)
            plain = ~compressed & ~zero & self._has_place(entries, hosts)
            return self._whole(guest, entries, hosts, compressed, zero, plain)
        allocated, zeroed = bitmaps & _ALL, bitmaps >> _ZEROS_AT
        mixed = ~compressed & ~((allocated == _ALL) | (zeroed == _ALL) | (bitmaps == 0))
        zero = ~compressed & ~mixed & (zeroed == _ALL)
        plain = ~compressed & ~mixed & (allocated == _ALL)
        whole = self._whole(guest, entries, hosts, compressed, zero, plain)
        if not mixed.any():
            return whole
        parts = self._parts(guest[mixed], hosts[mixed], bitmaps[mixed])
        together = np.concatenate((whole, parts))
        ordered: Rows = together[np.argsort(together[:, AT["offset"]], kind="stable")]
        return ordered

    def _check(
        self, guest: Offsets, entries: Entries, compressed: Flags, hosts: Offsets, bitmaps: Entries | None
    ) -> None:
        header = self.header
        standard = ~compressed
        reserved = _RESERVED if bitmaps is None else _RESERVED_EXTENDED
        self._refuse_at(standard & ((entries & reserved) != 0), guest, "has reserved bits set in its L2 entry")
        if header.version == 2:
            zero = standard & ((entries & _ZERO) != 0)
            self._refuse_at(zero, guest, "is a zero cluster, which version 2 does not have")
        unaligned = standard & (hosts % header.cluster_size != 0)
        self._refuse_at(unaligned, guest, "does not begin at a cluster of the file")
        placed = standard & self._has_place(entries, hosts)
        if header.has_data_file:
            self._refuse_at(compressed, guest, "is compressed, which an external data file does not allow")
            self._refuse_at(placed & (hosts != guest), guest, "is not at that offset of the external data file")
        if bitmaps is not None:
            allocated, zeroed = bitmaps & _ALL, bitmaps >> _ZEROS_AT
            both = standard & ((allocated & zeroed) != 0)
            self._refuse_at(both, guest, "has subclusters that are allocated and zero at once")
            nowhere = standard & ~placed & (allocated != 0)
            self._refuse_at(nowhere, guest, "has allocated subclusters and no place in the file")

    def _has_place(self, entries: Entries, hosts: Offsets) -> Flags:
        """Tell which entries that are not compressed name a cluster; in a data file the first one lies at 0."""
        placed: Flags = hosts != 0
        return placed | ((entries & _COPIED) != 0) if self.header.has_data_file else placed

    def _whole(
        self, guest: Offsets, entries: Entries, hosts: Offsets, compressed: Flags, zero: Flags, plain: Flags
    ) -> Rows:
        """Return a row for each cluster that is of one kind."""
        header = self.header
        lengths = np.minimum(header.cluster_size, self.virtual_size - guest)
        # A last cluster may lack what lies behind the end of the disk, and nothing else.
        self._refuse_at(plain & (hosts > self.data.size - lengths), guest, self._cut_short())
        self.data_budget.take(int(lengths[plain].sum()), "clusters")
        rows = np.zeros((len(guest), COLUMN_COUNT), dtype=np.int64)
        rows[:, AT["offset"]] = guest
        rows[:, AT["length"]] = lengths
        rows[:, AT["kind"]] = np.where(zero, ExtentKind.ZERO, ExtentKind.DATA)
        rows[plain, AT["reader"]] = self.data_index
        rows[plain, AT["source_offset"]] = hosts[plain]
        rows[plain, AT["source_length"]] = lengths[plain]
        if compressed.any():
            size_min = max(_COMPRESSED_SIZE_MIN, header.cluster_size >> _COMPRESSION_GAIN_LOG_MAX)
            self.data_budget.take(int(compressed.sum()) * size_min, "compressed clusters")
            self._describe_compressed(rows, compressed, entries)
        mapped: Rows = rows[zero | plain | compressed]
        return mapped

    def _parts(self, guest: Offsets, hosts: Offsets, bitmaps: Entries) -> Rows:
        """Return a row for each subcluster that is ZERO or DATA, of clusters with subclusters of several kinds."""
        size = self.header.cluster_size // SUBCLUSTERS
        numbers = np.arange(SUBCLUSTERS, dtype=np.uint64)
        data = ((bitmaps[:, None] >> numbers) & np.uint64(1)).astype(bool).reshape(-1)
        zero = ((bitmaps[:, None] >> (numbers + _ZEROS_AT)) & np.uint64(1)).astype(bool).reshape(-1)
        steps = numbers.astype(np.int64) * size
        offsets = (guest[:, None] + steps).reshape(-1)
        # Subclusters behind the end of the disk mean nothing.
        used = (data | zero) & (offsets < self.virtual_size)
        data, offsets = data[used], offsets[used]
        places = (hosts[:, None] + steps).reshape(-1)[used]
        lengths = np.minimum(size, self.virtual_size - offsets)
        self._refuse_at(data & (places > self.data.size - lengths), offsets, self._cut_short())
        self.data_budget.take(int(lengths[data].sum()), "clusters")
        rows = np.zeros((len(offsets), COLUMN_COUNT), dtype=np.int64)
        rows[:, AT["offset"]] = offsets
        rows[:, AT["length"]] = lengths
        rows[:, AT["kind"]] = np.where(data, ExtentKind.DATA, ExtentKind.ZERO)
        rows[data, AT["reader"]] = self.data_index
        rows[data, AT["source_offset"]] = places[data]
        rows[data, AT["source_length"]] = lengths[data]
        return rows

    def _describe_compressed(self, rows: Rows, compressed: Flags, entries: Entries) -> None:
        """Fill in where the compressed clusters among ``rows`` are; their lengths are bounds, in sectors."""
        header = self.header
        offset_bits = 62 - (header.cluster_bits - 8)
        described = entries[compressed] & ~(_COMPRESSED | _COPIED)
        offsets = (described & np.uint64((1 << offset_bits) - 1)).astype(np.int64)
        sectors = (described >> np.uint64(offset_bits)).astype(np.int64) + 1
        guest = rows[compressed, AT["offset"]]
        self._refuse_at(offsets >= self.data.size, guest, "is compressed and not in the file, which is cut short")
        lengths = sectors * SECTOR_SIZE - offsets % SECTOR_SIZE
        # The last sector of the last cluster need not be wholly there.
        rows[compressed, AT["source_length"]] = np.minimum(lengths, self.data.size - offsets)
        rows[compressed, AT["source_offset"]] = offsets
        rows[compressed, AT["codec"]] = header.codec
        rows[compressed, AT["decoded_length"]] = header.cluster_size

    def _cut_short(self) -> str:
        if self.header.has_data_file:
            return f"is not in the data file {self.data.name}, which is cut short"
        return "is not in the file, which is cut short"

    def _refuse_at(self, wrong: Flags, guest: Offsets, problem: str) -> None:
        """Raise InvalidImage that names the first cluster for which ``wrong`` is set."""
        if wrong.any():
            where = int(guest[int(np.argmax(wrong))])
            raise InvalidImage(f"{self.name}: the cluster for offset {where} of the disk {problem}")
