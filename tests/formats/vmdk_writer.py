"""A small VMDK writer of its own, from the format's description: sparse extents that no tool would write.

Nothing here is shared with the reader. Order in the file: header, descriptor, redundant directory and tables,
directory and tables, grains, footer.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

SECTOR = 512
ZERO_GRAIN = "zero"

TEXT = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID={parent}
createType="{kind}"
{more}
# Extent description
{extents}
# The Disk Data Base
ddb.adapterType = "lsilogic"
"""


def descriptor(*extents: str, kind: str = "monolithicSparse", parent: str = "ffffffff", more: str = "") -> bytes:
    """Return the text of a descriptor."""
    return TEXT.format(parent=parent, kind=kind, more=more, extents="\n".join(extents)).encode()


@dataclass
class Sparse:
    """A KDMV extent. ``grains`` maps a grain's index to its bytes or ZERO_GRAIN; sizes are in sectors."""

    capacity: int
    grains: dict[int, bytes | str] = field(default_factory=dict)
    version: int = 1
    grain: int = 128
    table_entries: int = 512
    flags: int = 1
    packed: bool = False
    markers: bool = True
    footer: bool = False
    redundant: bool = True
    text: bytes | None = descriptor('RW 1 SPARSE "x"')
    newlines: bytes = b"\n \r\n"
    compression: int | None = None
    entries: dict[int, int] = field(default_factory=dict)  # grain index -> entry, as it is
    tables: dict[int, int] = field(default_factory=dict)  # table index -> sector, as it is
    stale_copy: bool = False  # the redundant tables name no grains
    marker: dict[int, tuple[int, int]] = field(default_factory=dict)  # grain index -> LBA and size, as they are
    pad_last: bool = True  # a packed last grain holds what lies behind the end of the disk
    fields: dict[str, int] = field(default_factory=dict)  # of the header, as they are, in sectors
    footer_fields: dict[str, int] = field(default_factory=dict)

    def write(self) -> bytes:
        """Return the file."""
        text_sectors = 20 if self.text is not None else 0
        span = self.grain * self.table_entries
        count = -(-self.capacity // span)
        table_sectors = -(-4 * self.table_entries // SECTOR)
        directory_sectors = -(-4 * count // SECTOR)
        maps = directory_sectors + count * table_sectors
        redundant_at = 1 + text_sectors
        directory_at = redundant_at + (maps if self.redundant else 0)
        first = directory_at + maps
        first = -(-first // self.grain) * self.grain
        entries = [0] * (count * self.table_entries)
        data = bytearray()
        for index, content in sorted(self.grains.items()):
            if isinstance(content, str):
                entries[index] = 1
                continue
            entries[index] = first + len(data) // SECTOR
            data += self._grain(index, content)
        for index, entry in self.entries.items():
            entries[index] = entry

        def directory(at: int, entries: list[int]) -> bytes:
            places = [
                self.tables.get(number, at + directory_sectors + number * table_sectors) for number in range(count)
            ]
            held = struct.pack(f"<{count}I", *places).ljust(directory_sectors * SECTOR, b"\0")
            size = self.table_entries
            return held + b"".join(
                struct.pack(f"<{size}I", *entries[at : at + size]).ljust(table_sectors * SECTOR, b"\0")
                for at in range(0, len(entries), size)
            )

        places = {"redundant": redundant_at if self.redundant else 0, "directory": directory_at, "overhead": first}
        told = {**places, **({"directory": (1 << 64) - 1} if self.footer else {}), **self.fields}
        file = self._header(told).ljust(SECTOR, b"\0")
        if self.text is not None:
            file += self.text.ljust(text_sectors * SECTOR, b"\0")
        if self.redundant:
            file += directory(redundant_at, [0] * len(entries) if self.stale_copy else entries)
        file += directory(directory_at, entries)
        file = file.ljust(first * SECTOR, b"\0") + data
        if self.footer:
            file += struct.pack("<QII", 1, 0, 3).ljust(SECTOR, b"\0")
            file += self._header({**places, **self.footer_fields}).ljust(SECTOR, b"\0")
            file += bytes(SECTOR)
        return bytes(file)

    def _grain(self, index: int, content: bytes) -> bytes:
        size = self.grain * SECTOR
        last = self.capacity * SECTOR - index * size
        if not self.packed:
            return content.ljust(size, b"\xdd")
        packed = zlib.compress(content.ljust(size if self.pad_last else min(size, last), b"\0"), 1)
        if self.markers:
            place, length = self.marker.get(index, (index * self.grain, len(packed)))
            packed = struct.pack("<QI", place, length) + packed
        return packed + bytes(-len(packed) % SECTOR)

    def _header(self, places: dict[str, int]) -> bytes:
        flags = self.flags | 2 * self.redundant | (1 << 16 if self.packed else 0)
        flags |= 1 << 17 if self.packed and self.markers else 0
        has_text = self.text is not None
        values = {
            "version": self.version,
            "flags": flags,
            "capacity": self.capacity,
            "grain": self.grain,
            "text_at": int(has_text),
            "text_size": 20 * has_text,
            "table_entries": self.table_entries,
            **places,
        }
        values.update({key: value for key, value in self.fields.items() if key != "directory"})
        compression = int(self.packed) if self.compression is None else self.compression
        return struct.pack("<4sIIQQQQIQQQB", b"KDMV", *(values[key] for key in ORDER), 0) + struct.pack(
            "<4sH", self.newlines, compression
        )


ORDER = (
    "version",
    "flags",
    "capacity",
    "grain",
    "text_at",
    "text_size",
    "table_entries",
    "redundant",
    "directory",
    "overhead",
)


def cowd(capacity: int, grains: dict[int, bytes], grain: int = 1) -> bytes:
    """Return a COWD extent; sizes are in sectors."""
    span = grain * 4096
    count = -(-capacity // span)
    directory_at, tables_at = 4, 4 + -(-4 * count // SECTOR)
    first = tables_at + count * 32
    entries = [0] * (count * 4096)
    data = b""
    for index, content in sorted(grains.items()):
        entries[index] = first + len(data) // SECTOR
        data += content.ljust(grain * SECTOR, b"\xdd")
    header = struct.pack("<4sIIIIIIIII", b"COWD", 1, 3, capacity, grain, directory_at, count, first, 0, 0)
    directory = struct.pack(f"<{count}I", *(tables_at + 32 * number for number in range(count)))
    file = header.ljust(directory_at * SECTOR, b"\0") + directory
    return file.ljust(tables_at * SECTOR, b"\0") + struct.pack(f"<{len(entries)}I", *entries) + data
