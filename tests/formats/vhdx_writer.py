"""A small VHDX writer of its own, from the format's description. Nothing here is shared with the reader.

Order in the file: the header section of 1 MiB, the metadata region, the table of blocks, blocks.
"""

from __future__ import annotations

import os
import struct
import uuid
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
KIB = 1 << 10

NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, RESERVED, DRAFT_UNMAPPED, PRESENT, PARTIAL = range(8)

BAT = "2DC27766-F623-4200-9D64-115E9BFD4A08"
METADATA = "8B7CA206-4790-4B9A-B8FE-575F050F886E"
FILE_PARAMETERS = "CAA16737-FA36-4D43-B3B6-33F0AA44E76B"
DISK_SIZE = "2FA54224-CD1B-4876-B211-5DBED83BF4B8"
LOGICAL = "8141BF1D-A96F-4709-BA47-F233A8FAAB5F"
PHYSICAL = "CDA348C7-445D-4471-9CC9-E9885251C556"
IDENTIFIER = "BECA12AB-B2E6-4523-93EF-C309E000C746"
PARENT_LOCATOR = "A8D35F2D-B30B-454D-ABF7-D3D84834AB0C"


def checksum(data: bytes) -> int:
    """Return the CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return ~crc & 0xFFFFFFFF


_SUMS: dict[bytes, int] = {}


def sealed(data: bytes) -> bytes:
    """Return a structure with its checksum put in at 4."""
    data = data[:4] + bytes(4) + data[8:]
    if data not in _SUMS:  # bit by bit is slow, and tests write the same tables again and again
        _SUMS[data] = checksum(data)
    return data[:4] + struct.pack("<I", _SUMS[data]) + data[8:]


def header(sequence: int, *, log: bytes = bytes(16), version: int = 1, log_version: int = 0) -> bytes:
    """Return one of the two headers."""
    data = struct.pack("<4sIQ", b"head", 0, sequence) + b"f" * 16 + b"d" * 16 + log
    return sealed((data + struct.pack("<HHIQ", log_version, version, MIB, 16 * MIB)).ljust(4096, b"\0"))


@dataclass
class Vhdx:
    """A VHDX. ``blocks`` maps a block's index to its bytes or an entry of the table, as it is."""

    size: int
    blocks: dict[int, bytes | int] = field(default_factory=dict)
    block_size: int = MIB
    sector_size: int = 512
    flags: int = 0
    bat_size: int = MIB
    headers: tuple[bytes, bytes] = field(default_factory=lambda: (header(1), header(2)))
    regions: list[tuple[str, int, int, int]] | None = None  # kind, offset, length, required
    items: dict[str, bytes] = field(default_factory=dict)  # in place of those that belong there
    more_items: list[tuple[str, bytes, int]] = field(default_factory=list)  # kind, content, flags
    item_offset: int = 64 * KIB
    region_tables: tuple[bytes, bytes] | None = None

    def write(self, path: Path) -> Path:
        """Write the file, with holes where nothing is."""
        ratio = (1 << 23) * self.sector_size // self.block_size
        data_at = 2 * MIB + self.bat_size
        with path.open("wb") as file:

            def put(at: int, data: bytes) -> None:
                os.pwrite(file.fileno(), data, at)

            put(0, b"vhdxfile")
            put(64 * KIB, self.headers[0])
            put(128 * KIB, self.headers[1])
            tables = self.region_tables or (self._regions(),) * 2
            put(192 * KIB, tables[0])
            put(256 * KIB, tables[1])
            put(MIB, self._metadata())
            end = data_at
            for index, content in self.blocks.items():
                entry = content if isinstance(content, int) else end | PRESENT
                put(2 * MIB + 8 * (index + index // ratio), struct.pack("<Q", entry))
                if isinstance(content, bytes):
                    put(end, content.ljust(self.block_size, b"\xdd"))
                    end += self.block_size
            file.truncate(end)
        return path

    def _regions(self) -> bytes:
        regions = self.regions
        if regions is None:
            regions = [(METADATA, MIB, MIB, 1), (BAT, 2 * MIB, self.bat_size, 1)]
        data = struct.pack("<4sIII", b"regi", 0, len(regions), 0)
        for kind, offset, length, required in regions:
            data += struct.pack("<16sQII", uuid.UUID(kind).bytes_le, offset, length, required)
        return sealed(data.ljust(64 * KIB, b"\0"))

    def _metadata(self) -> bytes:
        items = {
            FILE_PARAMETERS: struct.pack("<II", self.block_size, self.flags),
            DISK_SIZE: struct.pack("<Q", self.size),
            LOGICAL: struct.pack("<I", self.sector_size),
            PHYSICAL: struct.pack("<I", 4096),
            IDENTIFIER: b"i" * 16,
            **self.items,
        }
        listed = [(kind, data, 4) for kind, data in items.items() if data] + self.more_items
        table = struct.pack("<8sHH20s", b"metadata", 0, len(listed), b"")
        content = b""
        for kind, data, flags in listed:
            at = self.item_offset + len(content)
            table += struct.pack("<16sIIII", uuid.UUID(kind).bytes_le, at, len(data), flags, 0)
            content += data
        return table.ljust(64 * KIB, b"\0") + content
