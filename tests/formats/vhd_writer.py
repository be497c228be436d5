"""Small VHD and VDI writers of their own, from the formats' descriptions. Nothing here is shared with the readers."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

SECTOR = 512


def sealed(data: bytes, at: int) -> bytes:
    """Return a structure with its VHD checksum put in at ``at``."""
    total = sum(data[:at]) + sum(data[at + 4 :])
    return data[:at] + struct.pack(">I", ~total & 0xFFFFFFFF) + data[at + 4 :]


@dataclass
class Vhd:
    """A VHD. ``blocks`` maps a block's index to its bytes, and ``bitmaps`` to other bits than those of all sectors."""

    size: int
    blocks: dict[int, bytes] = field(default_factory=dict)
    bitmaps: dict[int, bytes] = field(default_factory=dict)
    block_size: int = 2 << 20
    kind: int = 3
    creator: bytes = b"win "
    geometry: tuple[int, int, int] = (1, 1, 1)
    version: int = 0x10000
    dynamic_version: int = 0x10000
    entries: int | None = None
    table_offset: int | None = None
    header_offset: int = 512
    entry: dict[int, int] = field(default_factory=dict)  # block index -> entry, as it is
    copy: bytes | None = None  # in place of the footer's copy at the beginning

    def footer(self) -> bytes:
        """Return the footer."""
        offset = self.header_offset if self.kind != 2 else (1 << 64) - 1
        data = struct.pack(
            ">8sIIQI4sI4sQQ", b"conectix", 2, self.version, offset, 0, self.creator, 1, b"Wi2k", 0, self.size
        )
        data += struct.pack(">HBBI", *self.geometry, self.kind)
        return sealed(data.ljust(512, b"\0"), 64)

    def write(self) -> bytes:
        """Return the file."""
        if self.kind == 2:
            return self.blocks.get(0, b"").ljust(self.size, b"\0")[: self.size] + self.footer()
        count = -(-self.size // self.block_size)
        table_size = -(-4 * count // SECTOR) * SECTOR
        table = [0xFFFFFFFF] * count
        bitmap_size = -(-self.block_size // SECTOR // 8 // SECTOR) * SECTOR or SECTOR
        data = b""
        for index, content in self.blocks.items():
            table[index] = (1536 + table_size + len(data)) // SECTOR
            bitmap = self.bitmaps.get(index, b"\xff" * bitmap_size).ljust(bitmap_size, b"\0")
            data += bitmap + content.ljust(self.block_size, b"\xdd")
        for index, entry in self.entry.items():
            table[index] = entry
        header = struct.pack(
            ">8sQQIII",
            b"cxsparse",
            (1 << 64) - 1,
            1536 if self.table_offset is None else self.table_offset,
            self.dynamic_version,
            count if self.entries is None else self.entries,
            self.block_size,
        )
        head = self.footer() if self.copy is None else self.copy
        file = head + sealed(header.ljust(1024, b"\0"), 36)
        return file + struct.pack(f">{count}I", *table).ljust(table_size, b"\0") + data + self.footer()


@dataclass
class Vdi:
    """A VDI. ``blocks`` maps a block's index to its bytes or an entry of the map, as it is."""

    size: int
    blocks: dict[int, bytes | int] = field(default_factory=dict)
    block_size: int = 1 << 20
    version: int = 0x10001
    kind: int = 1
    sector_size: int = 512
    extra: int = 0
    count: int | None = None
    map_offset: int = 512
    data_offset: int = 4096
    link: bytes = bytes(16)
    parent: bytes = bytes(16)

    def write(self) -> bytes:
        """Return the file."""
        count = -(-self.size // self.block_size)
        table = [0xFFFFFFFF] * count
        data = b""
        for index, content in self.blocks.items():
            if isinstance(content, int):
                table[index] = content
            else:
                table[index] = len(data) // self.block_size
                data += content.ljust(self.block_size, b"\xdd")
        head = b"<<< disk >>>\n".ljust(64, b"\0")
        head += struct.pack("<4sIIII", b"\x7f\x10\xda\xbe", self.version, 400, self.kind, 0) + bytes(256)
        head += struct.pack("<IIIIIII", self.map_offset, self.data_offset, 0, 0, 0, self.sector_size, 0)
        told = count if self.count is None else self.count
        head += struct.pack("<QIIII", self.size, self.block_size, self.extra, told, len(self.blocks))
        head += b"i" * 16 + b"s" * 16 + self.link + self.parent
        return (head.ljust(512, b"\0") + struct.pack(f"<{count}I", *table)).ljust(self.data_offset, b"\0") + data
