"""A small qcow2 writer of its own, from the format's description: images that no tool would write, byte by byte.

Nothing here is shared with the reader. Clusters are laid down in this order: header, refcount table, L1 table, L2
tables, data clusters, compressed data.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

import zstandard

DIRTY, CORRUPT, EXTERNAL_DATA, COMPRESSION_TYPE, EXTENDED_L2 = (1 << bit for bit in range(5))


@dataclass
class Image:
    """What to write. ``clusters`` maps a cluster's index to "zero", "zero-allocated", ("data" | "packed", content)."""

    virtual_size: int
    version: int = 3
    cluster_bits: int = 16
    compression: str = "zlib"
    clusters: dict[int, str | tuple[str, bytes]] = field(default_factory=dict)
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    encryption: int = 0
    refcount_order: int = 4
    header_length: int = 112
    compression_type: int | None = None
    backing: bytes = b""
    extensions: list[tuple[int, bytes]] = field(default_factory=list)
    l1_entries: int | None = None
    l1_offset: int | None = None
    l1_patch: dict[int, int] = field(default_factory=dict)  # index -> entry, as it is
    l2_patch: dict[int, int] = field(default_factory=dict)  # cluster index -> entry, as it is
    pad: bool = True  # fill the file up to a whole cluster

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def per_table(self) -> int:
        return self.cluster_size // 8

    def write(self) -> bytes:
        """Return the file."""
        size = self.cluster_size
        needed = -(-self.virtual_size // (size * self.per_table))
        l1_clusters = max(1, -(-needed * 8 // size))
        tables = sorted({index // self.per_table for index in [*self.clusters, *self.l2_patch]})
        l1_at = 2 * size
        table_at = {table: l1_at + (l1_clusters + order) * size for order, table in enumerate(tables)}
        position = l1_at + (l1_clusters + len(tables)) * size
        l2: dict[int, list[int]] = {table: [0] * self.per_table for table in tables}
        data = bytearray()

        def put(index: int, entry: int) -> None:
            l2[index // self.per_table][index % self.per_table] = entry

        for index, cluster in sorted(self.clusters.items()):
            if cluster == "zero":
                put(index, 1)
            elif cluster == "zero-allocated":
                put(index, 1 << 63 | position + len(data) | 1)
                data += b"\xee" * size
            elif isinstance(cluster, tuple) and cluster[0] == "data":
                put(index, 1 << 63 | position + len(data))
                data += cluster[1].ljust(size, b"\xdd")  # what lies behind the content is not zeros
        for index, cluster in sorted(self.clusters.items()):
            if isinstance(cluster, tuple) and cluster[0] == "packed":
                packed = self.pack(cluster[1].ljust(size, b"\0"))
                put(index, self.descriptor(position + len(data), len(packed)))
                data += packed
        for index, entry in self.l2_patch.items():
            put(index, entry)
        l1 = [1 << 63 | table_at[table] if table in table_at else 0 for table in range(needed)]
        for index, entry in self.l1_patch.items():
            l1[index] = entry
        pieces = [self._header(needed, l1_at).ljust(size, b"\0"), bytes(size)]
        pieces.append(struct.pack(f">{len(l1)}Q", *l1).ljust(l1_clusters * size, b"\0"))
        pieces += [struct.pack(f">{self.per_table}Q", *l2[table]) for table in tables]
        pieces.append(bytes(data))
        file = b"".join(pieces)
        return file + bytes(-len(file) % size) if self.pad else file

    def pack(self, content: bytes) -> bytes:
        if self.compression == "zstd":
            return zstandard.ZstdCompressor(level=1).compress(content)
        deflate = zlib.compressobj(6, zlib.DEFLATED, -12)
        return deflate.compress(content) + deflate.flush()

    def descriptor(self, offset: int, length: int) -> int:
        """Return the L2 entry of a compressed cluster."""
        sectors_at = 62 - (self.cluster_bits - 8)
        sectors = (offset + length - 1) // 512 - offset // 512
        return 1 << 62 | sectors << sectors_at | offset

    def _header(self, needed: int, l1_at: int) -> bytes:
        incompatible = self.incompatible | (COMPRESSION_TYPE if self.compression == "zstd" else 0)
        length = self.header_length if self.version >= 3 else 72
        extensions = b"".join(
            struct.pack(">II", kind, len(body)) + body + bytes(-len(body) % 8) for kind, body in self.extensions
        )
        extensions += bytes(8)
        header = struct.pack(
            ">4sIQIIQIIQQIIQ",
            b"QFI\xfb",
            self.version,
            length + len(extensions) if self.backing else 0,
            len(self.backing),
            self.cluster_bits,
            self.virtual_size,
            self.encryption,
            needed if self.l1_entries is None else self.l1_entries,
            l1_at if self.l1_offset is None else self.l1_offset,
            self.cluster_size,  # refcount table
            1,
            0,
            0,
        )
        if self.version >= 3:
            header += struct.pack(
                ">QQQII", incompatible, self.compatible, self.autoclear, self.refcount_order, self.header_length
            )
            kind = (self.compression == "zstd") if self.compression_type is None else self.compression_type
            header += bytes([kind]).ljust(max(0, length - 104), b"\0")
        return header[: max(length, 104) if self.version >= 3 else length] + extensions + self.backing
