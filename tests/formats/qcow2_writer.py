"""A small qcow2 writer of its own, from the format's description: images that no tool would write, byte by byte.

Nothing here is shared with the reader. Clusters are laid down in this order: header, refcount table, L1 table, L2
tables, data clusters, compressed data, snapshot table.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

import zstandard

DIRTY, CORRUPT, EXTERNAL_DATA, COMPRESSION_TYPE, EXTENDED_L2 = (1 << bit for bit in range(5))


@dataclass
class Snapshot:
    """An internal snapshot that shares the active L1 table unless it says otherwise."""

    id: bytes
    name: bytes = b""
    virtual_size: int | None = None  # None leaves the extra data out
    l1_offset: int | None = None
    l1_entries: int | None = None
    extra_size: int | None = None  # as it is

    def write(self, l1_offset: int, l1_entries: int) -> bytes:
        extra = b"" if self.virtual_size is None else struct.pack(">QQ", 0, self.virtual_size)
        entry = struct.pack(
            ">QIHHIIQII",
            l1_offset if self.l1_offset is None else self.l1_offset,
            l1_entries if self.l1_entries is None else self.l1_entries,
            len(self.id),
            len(self.name),
            *(0, 0, 0, 0),
            len(extra) if self.extra_size is None else self.extra_size,
        )
        entry += extra + self.id + self.name
        return entry + bytes(-len(entry) % 8)


@dataclass
class Image:
    """What to write. ``clusters`` maps a cluster's index to "zero", "zero-allocated", ("data" | "packed", content).

    With extended L2 entries also ("parts", text), a letter for each of 32 subclusters: "." unallocated, "0" zero, any
    other one data filled with it.
    """

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
    bitmap_patch: dict[int, int] = field(default_factory=dict)  # cluster index -> bitmap of an extended entry
    snapshots: list[Snapshot] = field(default_factory=list)
    snapshot_count: int | None = None
    snapshots_offset: int | None = None
    pad: bool = True  # fill the file up to a whole cluster

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def per_table(self) -> int:
        return self.cluster_size // (8 * self.words)

    @property
    def words(self) -> int:
        return 2 if self.incompatible & EXTENDED_L2 else 1

    def write(self) -> bytes:
        """Return the file."""
        size = self.cluster_size
        needed = -(-self.virtual_size // (size * self.per_table))
        l1_clusters = max(1, -(-needed * 8 // size))
        tables = sorted({index // self.per_table for index in [*self.clusters, *self.l2_patch, *self.bitmap_patch]})
        l1_at = 2 * size
        table_at = {table: l1_at + (l1_clusters + order) * size for order, table in enumerate(tables)}
        position = l1_at + (l1_clusters + len(tables)) * size
        l2: dict[int, list[int]] = {table: [0] * self.per_table * self.words for table in tables}
        data = bytearray()

        def put(index: int, entry: int, bitmap: int | None = None) -> None:
            at = index % self.per_table * self.words
            l2[index // self.per_table][at] = entry
            if bitmap is not None and self.words == 2:
                l2[index // self.per_table][at + 1] = bitmap

        for index, cluster in sorted(self.clusters.items()):
            if cluster == "zero":
                put(index, 2 - self.words, 0xFFFFFFFF << 32)
            elif cluster == "zero-allocated":
                put(index, 1 << 63 | position + len(data) | 2 - self.words, 0xFFFFFFFF << 32)
                data += b"\xee" * size
            elif isinstance(cluster, tuple) and cluster[0] == "data":
                put(index, 1 << 63 | position + len(data), 0xFFFFFFFF)
                data += cluster[1].ljust(size, b"\xdd")  # what lies behind the content is not zeros
            elif isinstance(cluster, tuple) and cluster[0] == "parts":
                letters = cluster[1].decode()
                stored = any(letter not in ".0" for letter in letters)
                put(index, 1 << 63 | position + len(data) if stored else 0, parts_bitmap(letters))
                data += b"".join(letter.encode() * (size // 32) for letter in letters) if stored else b""
        for index, cluster in sorted(self.clusters.items()):
            if isinstance(cluster, tuple) and cluster[0] == "packed":
                packed = self.pack(cluster[1].ljust(size, b"\0"))
                put(index, self.descriptor(position + len(data), len(packed)))
                data += packed
        for index, entry in self.l2_patch.items():
            put(index, entry)
        for index, bitmap in self.bitmap_patch.items():
            l2[index // self.per_table][index % self.per_table * 2 + 1] = bitmap
        l1 = [1 << 63 | table_at[table] if table in table_at else 0 for table in range(needed)]
        for index, entry in self.l1_patch.items():
            l1[index] = entry
        if self.snapshots:
            data += bytes(-len(data) % size)
        snapshots_at = position + len(data)
        data += b"".join(snapshot.write(l1_at, needed) for snapshot in self.snapshots)
        pieces = [self._header(needed, l1_at, snapshots_at).ljust(size, b"\0"), bytes(size)]
        pieces.append(struct.pack(f">{len(l1)}Q", *l1).ljust(l1_clusters * size, b"\0"))
        pieces += [struct.pack(f">{len(l2[table])}Q", *l2[table]) for table in tables]
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

    def _header(self, needed: int, l1_at: int, snapshots_at: int = 0) -> bytes:
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
            len(self.snapshots) if self.snapshot_count is None else self.snapshot_count,
            (snapshots_at if self.snapshots else 0) if self.snapshots_offset is None else self.snapshots_offset,
        )
        if self.version >= 3:
            header += struct.pack(
                ">QQQII", incompatible, self.compatible, self.autoclear, self.refcount_order, self.header_length
            )
            kind = (self.compression == "zstd") if self.compression_type is None else self.compression_type
            header += bytes([kind]).ljust(max(0, length - 104), b"\0")
        return header[: max(length, 104) if self.version >= 3 else length] + extensions + self.backing


def parts_bitmap(letters: str) -> int:
    """Return the bitmap of an extended entry; ``letters`` as in ``Image``."""
    zeros = sum(1 << 32 + at for at, letter in enumerate(letters) if letter == "0")
    return zeros | sum(1 << at for at, letter in enumerate(letters) if letter not in ".0")
