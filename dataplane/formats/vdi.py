"""VdiSource: a VirtualBox disk image, dynamic or static; its block map becomes extents. Numbers are little-endian."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dataplane.byte_reader import ByteReader
from dataplane.dataclass import dataclass
from dataplane.engine.batches import BatchBuilder
from dataplane.engine.block_map import add_vdi_blocks
from dataplane.errors import InvalidImage, Unsupported
from dataplane.formats.tables import (
    ENTRIES_AT_ONCE,
    SpaceBudget,
    add_zeros,
    batches_of,
    check_inside,
    check_power,
    check_virtual_size,
    faults_of,
    new_rows,
)
from dataplane.image_source import ImageSource
from dataplane.limits import BLOCK_MAP_SIZE_MAX, SECTOR_SIZE

MAGIC = b"\x7f\x10\xda\xbe"
MAGIC_OFFSET = 0x40

# magic, version, header size, type, flags: 20 bytes at MAGIC_OFFSET; then a comment of 256 bytes
_START = struct.Struct("<4sIIII")

# offsets of the block map and of the data, geometry (3), sector size, unused, disk size, block size, extra bytes of a
# block, blocks, allocated blocks, four identifiers: the image, its last
# change, the linked image, the parent
_REST = struct.Struct("<IIIIIIIQIIII16s16s16s16s")
_REST_OFFSET = 0x154

_VERSION = 0x0001_0001
_DYNAMIC, _STATIC, _UNDO, _DIFFERENCING = 1, 2, 3, 4
_BLOCK_SIZE_MIN = 4096
_BLOCK_SIZE_MAX = 1 << 30

_MERGE = "merge it with what wrote it"


@dataclass(frozen=True, slots=True, kw_only=True)
class VdiHeader:
    """What the header says, after checks. Sizes and offsets are in bytes."""

    disk_size: int
    block_size: int
    map_offset: int
    data_offset: int

    @property
    def block_count(self) -> int:
        """Blocks that the disk takes."""
        return -(-self.disk_size // self.block_size)


def open_vdi(reader: ByteReader) -> ImageSource:
    """Return the VDI image in ``reader``, which ``close`` of the result closes.

    On errors ``reader`` is still the caller's. Raises InvalidImage or Unsupported.
    """
    return VdiSource(reader, _read_header(reader))


class VdiSource(ImageSource):
    """A VDI image. A size between sectors is rounded up to 512 bytes; what rounding adds reads as zeros."""

    format = "vdi"

    def __init__(self, reader: ByteReader, header: VdiHeader) -> None:
        """Take over ``reader``, whose ``header`` is checked."""
        self.readers = (reader,)
        self.virtual_size = -(-header.disk_size // SECTOR_SIZE) * SECTOR_SIZE
        self._reader = reader
        self._header = header

    def extents(self) -> Iterator[memoryview]:
        """Yield batches while the block map is read, 256 KiB of it at a time.

        Raises InvalidImage when a block is not in the file or blocks overlap.
        """
        budget = SpaceBudget(self._reader)
        rows = new_rows(budget)
        return batches_of(rows, self._mapped(rows, budget), self.virtual_size)

    def _mapped(self, rows: BatchBuilder, budget: SpaceBudget) -> Iterator[int]:
        header = self._header
        for first in range(0, header.block_count, ENTRIES_AT_ONCE):
            count = min(ENTRIES_AT_ONCE, header.block_count - first)
            entries = self._reader.read_at(header.map_offset + 4 * first, 4 * count)
            with faults_of(self._reader.name):
                named = add_vdi_blocks(
                    rows,
                    entries,
                    first,
                    block_size=header.block_size,
                    disk_size=header.disk_size,
                    data_offset=header.data_offset,
                    file_size=self._reader.size,
                )
            budget.take(named, "blocks")
            yield min((first + count) * header.block_size, header.disk_size)
        add_zeros(rows, header.disk_size, self.virtual_size)


def _read_header(reader: ByteReader) -> VdiHeader:
    """Read and check the header of ``reader``."""
    name = reader.name
    check_inside(reader, 0, _REST_OFFSET + _REST.size, "the header")
    magic, version, _, kind, _ = _START.unpack(reader.read_at(MAGIC_OFFSET, _START.size))
    if magic != MAGIC:
        raise InvalidImage(f"{name} is not a VDI image: there is no magic at {MAGIC_OFFSET}")
    if version != _VERSION:
        raise Unsupported(f"{name} is a VDI image of version {version >> 16}.{version & 0xFFFF}; version 1.1 is read")
    if kind in (_UNDO, _DIFFERENCING):
        what = "an undo" if kind == _UNDO else "a differencing"
        raise Unsupported(f"{name} is {what} VDI image and needs a parent; {_MERGE}")
    if kind not in (_DYNAMIC, _STATIC):
        raise Unsupported(f"{name} is a VDI image of type {kind}; dynamic (1) and static (2) ones are read")
    fields = _REST.unpack(reader.read_at(_REST_OFFSET, _REST.size))
    map_offset, data_offset = fields[:2]
    sector_size, _, disk_size, block_size, extra_size, block_count = fields[5:11]
    if any(fields[14]) or any(fields[15]):
        raise Unsupported(f"{name} is linked to another VDI image and needs it; {_MERGE}")
    if sector_size != SECTOR_SIZE:
        raise Unsupported(f"{name}: VDI sectors of {sector_size} bytes; {SECTOR_SIZE} are read")
    if extra_size:
        raise Unsupported(f"{name}: VDI blocks with {extra_size} extra bytes are not read")
    check_power(name, block_size, _BLOCK_SIZE_MIN, _BLOCK_SIZE_MAX, "a block")
    check_virtual_size(name, disk_size)
    header = VdiHeader(disk_size=disk_size, block_size=block_size, map_offset=map_offset, data_offset=data_offset)
    if block_count < header.block_count:
        raise InvalidImage(f"{name}: a block map of {block_count} entries, but the disk takes {header.block_count}")
    if 4 * header.block_count > BLOCK_MAP_SIZE_MAX:
        raise InvalidImage(f"{name}: a block map of {4 * header.block_count} bytes is more than {BLOCK_MAP_SIZE_MAX}")
    if map_offset % SECTOR_SIZE or data_offset % SECTOR_SIZE:
        raise InvalidImage(f"{name}: the block map at {map_offset} or the data at {data_offset} begins inside a sector")
    check_inside(reader, map_offset, 4 * header.block_count, "the block map")
    return header
