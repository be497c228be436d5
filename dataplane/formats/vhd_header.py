"""VHD footers and the header of dynamic disks: parsed and checked. All numbers of the format are big-endian."""

from __future__ import annotations

import struct

from dataplane.byte_reader import ByteReader
from dataplane.dataclass import dataclass
from dataplane.errors import InvalidImage, Unsupported
from dataplane.formats.tables import check_inside, check_power, check_virtual_size
from dataplane.limits import BLOCK_MAP_SIZE_MAX, SECTOR_SIZE

MAGIC = b"conectix"

FOOTER_SIZE = 512

# cookie, features, version, offset of the dynamic header, time, creator, its version and system, original size, current
# size, cylinders, heads, sectors of a track, type, checksum: 68 bytes; then an identifier, a flag and zeros
_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII")
_CHECKSUM_AT = 64

# cookie, next structure, offset of the table, version, entries of the table, block size, checksum: 40 bytes; then
# what differencing disks need
_DYNAMIC = struct.Struct(">8sQQIIII")
_DYNAMIC_SIZE = 1024
_DYNAMIC_MAGIC = b"cxsparse"
_DYNAMIC_CHECKSUM_AT = 36

_VERSION_MAJOR = 1
_FIXED, _DYNAMIC_TYPE, _DIFFERENCING = 2, 3, 4
_GEOMETRY_MAX = 65535 * 16 * 255  # sectors; geometry tells no more, so such a disk may be longer
_BLOCK_SIZE_MAX = 1 << 31

_SIZE_IN_BYTES = frozenset((b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0"))
"""Creators whose disks have the footer's current size; those of all others have what the geometry gives.

The same as in qemu; its version 7.2 lacks the last one, Azure, and cuts such disks off.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VhdFooter:
    """What a footer says, after checks. Sizes and offsets are in bytes."""

    virtual_size: int
    is_fixed: bool
    dynamic_offset: int  # of the dynamic header; not used for fixed disks
    stored_size: int  # of the footer itself: 512, or 511 from one old writer


@dataclass(frozen=True, slots=True, kw_only=True)
class VhdDynamic:
    """What the header of a dynamic disk says, after checks. Sizes and offsets are in bytes."""

    block_size: int
    table_offset: int

    @property
    def bitmap_size(self) -> int:
        """Bytes of whole sectors in front of each block that tell which of its sectors are stored."""
        bits = self.block_size // SECTOR_SIZE
        return -(-bits // (8 * SECTOR_SIZE)) * SECTOR_SIZE


def read_footer(reader: ByteReader) -> VhdFooter:
    """Read and check the footer of ``reader``, and its copy at the beginning of a dynamic disk.

    Raises InvalidImage when there is none or it breaks the rules of the format, Unsupported for kinds not read.
    """
    start = max(0, reader.size - FOOTER_SIZE)
    tail = reader.read_at(start, reader.size - start)
    at = tail.find(MAGIC, 0, len(MAGIC) + 1)
    starts_with_magic = reader.size >= FOOTER_SIZE and reader.read_at(0, len(MAGIC)) == MAGIC
    if at < 0 or len(tail) < FOOTER_SIZE:
        where = "is cut short" if starts_with_magic else "is no VHD or is cut short"
        raise InvalidImage(f"{reader.name} {where}: there is no footer in its last {FOOTER_SIZE} bytes")
    footer = _parse_footer(reader.name, tail[at:].ljust(FOOTER_SIZE, b"\0"), FOOTER_SIZE - at)
    if not footer.is_fixed:
        if not starts_with_magic:
            raise InvalidImage(f"{reader.name}: the copy of the footer at the beginning of a dynamic disk is missing")
        copy = _parse_footer(reader.name, reader.read_at(0, FOOTER_SIZE), FOOTER_SIZE - at)
        if copy != footer:
            raise InvalidImage(f"{reader.name}: the footer and its copy at the beginning contradict each other")
    elif starts_with_magic and reader.size > FOOTER_SIZE:
        # Either the disk inside begins with a VHD of its own, or someone made the file look like two disks.
        raise InvalidImage(f"{reader.name} begins as a dynamic VHD and ends as a fixed one; which it is is not clear")
    return footer


def read_dynamic(reader: ByteReader, footer: VhdFooter) -> VhdDynamic:
    """Read and check the header of the dynamic disk that ``footer`` belongs to; raises as ``read_footer`` does."""
    name = reader.name
    check_inside(reader, footer.dynamic_offset, _DYNAMIC_SIZE, "the dynamic header")
    data = reader.read_at(footer.dynamic_offset, _DYNAMIC_SIZE)
    magic, _, table_offset, version, entries, block_size, checksum = _DYNAMIC.unpack_from(data)
    if magic != _DYNAMIC_MAGIC:
        raise InvalidImage(f"{name}: there is no dynamic header at {footer.dynamic_offset}")
    _check_sum(name, data, _DYNAMIC_CHECKSUM_AT, checksum, "the dynamic header")
    if version >> 16 != _VERSION_MAJOR:
        raise Unsupported(f"{name}: a dynamic VHD header of version {version >> 16}; version {_VERSION_MAJOR} is read")
    check_power(name, block_size, SECTOR_SIZE, _BLOCK_SIZE_MAX, "a block")
    needed = -(-footer.virtual_size // block_size)
    if entries < needed:
        raise InvalidImage(f"{name}: a block table of {entries} entries, but the disk takes {needed}")
    if 4 * needed > BLOCK_MAP_SIZE_MAX:
        raise InvalidImage(f"{name}: a block table of {4 * needed} bytes is more than {BLOCK_MAP_SIZE_MAX}")
    check_inside(reader, table_offset, 4 * entries, "the block table")
    return VhdDynamic(block_size=block_size, table_offset=table_offset)


def _parse_footer(name: str, data: bytes, stored_size: int) -> VhdFooter:
    fields = _FOOTER.unpack_from(data)
    version, dynamic_offset, creator, size = fields[2], fields[3], fields[5], fields[9]
    cylinders, heads, sectors, kind, checksum = fields[10:]
    _check_sum(name, data, _CHECKSUM_AT, checksum, "the footer")
    if version >> 16 != _VERSION_MAJOR:
        raise Unsupported(f"{name} is a VHD of version {version >> 16}; version {_VERSION_MAJOR} is read")
    if kind == _DIFFERENCING:
        raise Unsupported(f"{name} is a differencing VHD and needs a parent; merge them with what wrote it")
    if kind not in (_FIXED, _DYNAMIC_TYPE):
        raise Unsupported(f"{name} is a VHD of type {kind}; fixed (2) and dynamic (3) ones are read")
    geometry = cylinders * heads * sectors
    if creator not in _SIZE_IN_BYTES and geometry != _GEOMETRY_MAX:
        size = geometry * SECTOR_SIZE
    if size % SECTOR_SIZE:
        raise InvalidImage(f"{name}: a size of {size} bytes in the footer is no whole number of sectors")
    check_virtual_size(name, size)
    return VhdFooter(virtual_size=size, is_fixed=kind == _FIXED, dynamic_offset=dynamic_offset, stored_size=stored_size)


def _check_sum(name: str, data: bytes, at: int, told: int, what: str) -> None:
    """Raise InvalidImage unless ``told`` is the complement of the sum of ``data`` without the checksum at ``at``."""
    if ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF != told:
        raise InvalidImage(f"{name} is damaged: the checksum of {what} does not match")
