"""The bytes of a qcow2 image that is written here: version 3, one state of the disk, no backing file."""

from __future__ import annotations

import struct

from dataplane.dataclass import dataclass
from dataplane.errors import UsageError
from dataplane.limits import L1_TABLE_SIZE_MAX, SECTOR_SIZE

CLUSTER_SIZE_MAX = 2 << 20
REFCOUNT_MAX = 0xFFFF
"""Of a reference count of 16 bits, which is what every image here has."""

ENTRY_SIZE = 8  # of L1, L2 and refcount tables
REFCOUNT_SIZE = 2
REFCOUNT_ORDER = 4  # 2^4 bits

# magic, version, backing name offset and size, cluster_bits, virtual size, encryption, entries and offset of the L1
# table, offset and clusters of the refcount table, snapshots and their offset; incompatible, compatible and autoclear
# feature bits, refcount_order, header length, compression type; padding. The end of the header extensions follows.
HEADER = struct.Struct(">4sIQIIQIIQQIIQ QQQII B7x")
MAGIC = b"QFI\xfb"
VERSION = 3
COMPRESSION_TYPE_BIT = 1 << 3  # incompatible feature: the compression type is not deflate
COMPRESSION_ZSTD = 1

COPIED = 1 << 63  # its cluster has exactly one reference
COMPRESSED = 1 << 62

assert HEADER.size == 112  # noqa: S101 - the size of a structure, where it is declared


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2Layout:
    """Where the parts of an image lie that are known before any data is: sizes and offsets in bytes.

    The header has the first cluster, the L1 table the next ones; data and L2 tables follow as they come.
    """

    virtual_size: int
    cluster_size: int

    def __post_init__(self) -> None:
        if self.l1_entries * ENTRY_SIZE > L1_TABLE_SIZE_MAX:
            raise UsageError(
                f"a disk of {self.virtual_size} bytes is too large for qcow2 with clusters of {self.cluster_size}:"
                " export it as raw"
            )

    @property
    def cluster_bits(self) -> int:
        """The cluster size as a power of two."""
        return self.cluster_size.bit_length() - 1

    @property
    def disk_size(self) -> int:
        """The size a guest sees: in whole sectors, since qemu drops part of one."""
        return round_up(self.virtual_size, SECTOR_SIZE)

    @property
    def clusters(self) -> int:
        """Clusters of the disk."""
        return -(-self.virtual_size // self.cluster_size)

    @property
    def l2_entries(self) -> int:
        """Entries in an L2 table, which fills one cluster."""
        return self.cluster_size // ENTRY_SIZE

    @property
    def l1_entries(self) -> int:
        """Entries in the L1 table: L2 tables there may be."""
        return max(1, -(-self.clusters // self.l2_entries))

    @property
    def l1_offset(self) -> int:
        """Where the L1 table lies."""
        return self.cluster_size

    @property
    def data_offset(self) -> int:
        """Where the first cluster behind header and L1 table lies."""
        return self.cluster_size + round_up(self.l1_entries * ENTRY_SIZE, self.cluster_size)

    def header(self, refcount_offset: int, refcount_clusters: int, *, zstd: bool) -> bytes:
        """Return the header; `zstd` says how compressed clusters are, if there are any."""
        return HEADER.pack(
            MAGIC, VERSION, 0, 0, self.cluster_bits, self.disk_size, 0, self.l1_entries, self.l1_offset,
            refcount_offset, refcount_clusters, 0, 0,
            COMPRESSION_TYPE_BIT if zstd else 0, 0, 0, REFCOUNT_ORDER, HEADER.size, COMPRESSION_ZSTD if zstd else 0,
        )  # fmt: skip

    def compressed_entry(self, offset: int, length: int) -> int:
        """Return the L2 entry of a cluster compressed to `length` bytes at `offset`, which need not be aligned."""
        length_shift = 62 - (self.cluster_bits - 8)
        more_sectors = (offset + length - 1) // SECTOR_SIZE - offset // SECTOR_SIZE
        return COMPRESSED | more_sectors << length_shift | offset

    def refcount_room(self, clusters_used: int) -> tuple[int, int]:
        """Return (clusters of refcount blocks, clusters of the refcount table) that count `clusters_used`, and
        themselves."""
        per_block = self.cluster_size // REFCOUNT_SIZE
        blocks = tables = 0
        while True:
            needed = -(-(clusters_used + blocks + tables) // per_block)
            needed_tables = -(-needed // self.l2_entries)
            if (needed, needed_tables) == (blocks, tables):
                return blocks, tables
            blocks, tables = needed, needed_tables


def round_up(size: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least `size`."""
    return -(-size // multiple) * multiple
