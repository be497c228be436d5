"""VHDX headers, region tables and metadata: parsed and checked. All numbers of the format are little-endian."""

from __future__ import annotations

import struct
import uuid

from dataplane.byte_reader import ByteReader
from dataplane.dataclass import dataclass
from dataplane.errors import InvalidImage, Unsupported
from dataplane.formats.crc32c import crc32c
from dataplane.formats.tables import check_inside, check_power
from dataplane.limits import BLOCK_MAP_SIZE_MAX, KIB, MIB, TIB

MAGIC = b"vhdxfile"

# signature, checksum, sequence, identifiers of the last write, of the last write of data and of the log, version of the
# log and of the format, length and offset of the log: 80 bytes of 4 KiB
_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_HEADER_SIZE = 4 * KIB
_HEADER_OFFSETS = (64 * KIB, 128 * KIB)

# signature, checksum, entries, reserved: 16 bytes of 64 KiB; then entries: kind, offset, length, whether required
_REGIONS = struct.Struct("<4sIII")
_REGION = struct.Struct("<16sQII")
_REGIONS_SIZE = 64 * KIB
_REGIONS_OFFSETS = (192 * KIB, 256 * KIB)

# signature, reserved, entries, reserved: 32 bytes of 64 KiB; then entries: kind, offset in the region, length, flags,
# reserved
_METADATA = struct.Struct("<8sHH20s")
_ITEM = struct.Struct("<16sIIII")
_METADATA_SIZE = 64 * KIB
_IS_USER = 1 << 0
_IS_REQUIRED = 1 << 2

_ENTRIES_MAX = 2047
_CHECKSUM_AT = 4
_HAS_PARENT = 1 << 1

_BLOCK_SIZE_MIN, _BLOCK_SIZE_MAX = MIB, 256 * MIB
_VIRTUAL_SIZE_MAX = 64 * TIB
_SECTORS_PER_BITMAP = 1 << 23


def _kind(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


_BAT_REGION = _kind("2dc27766-f623-4200-9d64-115e9bfd4a08")
_METADATA_REGION = _kind("8b7ca206-4790-4b9a-b8fe-575f050f886e")

_FILE_PARAMETERS = _kind("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_VIRTUAL_DISK_SIZE = _kind("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_LOGICAL_SECTOR_SIZE = _kind("8141bf1d-a96f-4709-ba47-f233a8faab5f")
_PHYSICAL_SECTOR_SIZE = _kind("cda348c7-445d-4471-9cc9-e9885251c556")
_DISK_IDENTIFIER = _kind("beca12ab-b2e6-4523-93ef-c309e000c746")
_PARENT_LOCATOR = _kind("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")

_ITEM_SIZES = {
    _FILE_PARAMETERS: 8,
    _VIRTUAL_DISK_SIZE: 8,
    _LOGICAL_SECTOR_SIZE: 4,
    _PHYSICAL_SECTOR_SIZE: 4,
    _DISK_IDENTIFIER: 16,
}
_NEEDED_ITEMS = {
    _FILE_PARAMETERS: "file parameters",
    _VIRTUAL_DISK_SIZE: "virtual disk size",
    _LOGICAL_SECTOR_SIZE: "logical sector size",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VhdxHeader:
    """What the structures in front of the data say, after checks. Sizes and offsets are in bytes."""

    virtual_size: int
    block_size: int
    sector_size: int
    bat_offset: int

    @property
    def block_count(self) -> int:
        """Blocks of payload that the disk takes."""
        return -(-self.virtual_size // self.block_size)

    @property
    def chunk_blocks(self) -> int:
        """Blocks behind which the table has an entry for a sector bitmap, which a disk without parent never uses."""
        return _SECTORS_PER_BITMAP * self.sector_size // self.block_size

    def entry_of(self, block: int) -> int:
        """Return the index of a block's entry in the block allocation table."""
        return block + block // self.chunk_blocks

    @property
    def bat_entries(self) -> int:
        """Entries of the block allocation table that the disk takes."""
        return self.block_count + max(0, self.block_count - 1) // self.chunk_blocks


def read_header(reader: ByteReader) -> VhdxHeader:
    """Read and check everything in front of the block allocation table of ``reader``.

    Raises InvalidImage when a structure breaks the rules of the format or the file ends too early, Unsupported for
    disks with a parent, dirty ones and features that are not read.
    """
    name = reader.name
    check_inside(reader, 0, MIB, "the header section")
    if reader.read_at(0, len(MAGIC)) != MAGIC:
        raise InvalidImage(f"{name} is not a VHDX image: its first bytes are not the magic vhdxfile")
    _check_current(name, [reader.read_at(offset, _HEADER_SIZE) for offset in _HEADER_OFFSETS])
    regions = _read_regions(reader)
    items = _read_items(reader, *regions[_METADATA_REGION])
    block_size, flags = struct.unpack("<II", items[_FILE_PARAMETERS])
    if flags & _HAS_PARENT:
        raise Unsupported(f"{name} is a differencing VHDX and needs a parent; merge them with what wrote it")
    (virtual_size,) = struct.unpack("<Q", items[_VIRTUAL_DISK_SIZE])
    (sector_size,) = struct.unpack("<I", items[_LOGICAL_SECTOR_SIZE])
    check_power(name, block_size, _BLOCK_SIZE_MIN, _BLOCK_SIZE_MAX, "a block")
    if sector_size not in (512, 4096):
        raise InvalidImage(f"{name}: a logical sector of {sector_size} bytes is neither 512 nor 4096")
    if virtual_size > _VIRTUAL_SIZE_MAX or virtual_size % sector_size:
        raise InvalidImage(
            f"{name}: a virtual size of {virtual_size} bytes is no whole number of sectors or more than 64 TiB"
        )
    bat_offset, bat_size = regions[_BAT_REGION]
    header = VhdxHeader(
        virtual_size=virtual_size, block_size=block_size, sector_size=sector_size, bat_offset=bat_offset
    )
    if not 8 * header.bat_entries <= min(bat_size, BLOCK_MAP_SIZE_MAX):
        raise InvalidImage(
            f"{name}: a block allocation table of {bat_size} bytes, but the disk takes {8 * header.bat_entries}"
        )
    return header


def _check_current(name: str, headers: list[bytes]) -> None:
    """Check the header that counts: of those whose checksum matches the one with the higher sequence number."""
    valid = [header for header in headers if header.startswith(b"head") and _is_sealed(header)]
    if not valid:
        raise InvalidImage(f"{name} is damaged: neither of its two headers has a checksum that matches")
    fields = [_HEADER.unpack_from(header) for header in valid]
    current = max(fields, key=lambda header: int(header[2]))
    if len(valid) == 2 and fields[0][2] == fields[1][2] and fields[0] != fields[1]:
        raise InvalidImage(f"{name}: its two headers have the same sequence number and contradict each other")
    log_id, log_version, version = current[5:8]
    if version != 1 or log_version != 0:
        raise Unsupported(
            f"{name} is a VHDX of version {version} with a log of version {log_version}; 1 and 0 are read"
        )
    if any(log_id):
        raise Unsupported(
            f"{name} is dirty: its log holds changes that were never written to their places; let them be written: "
            f"qemu-img check -r all"
        )


def _read_regions(reader: ByteReader) -> dict[bytes, tuple[int, int]]:
    """Return offset and length of the two regions that every image has; from the first table that is whole."""
    name = reader.name
    tables = (reader.read_at(offset, _REGIONS_SIZE) for offset in _REGIONS_OFFSETS)
    table = next((table for table in tables if table.startswith(b"regi") and _is_sealed(table)), None)
    if table is None:
        raise InvalidImage(f"{name} is damaged: neither of its two region tables has a checksum that matches")
    count = _REGIONS.unpack_from(table)[2]
    if count > _ENTRIES_MAX:
        raise InvalidImage(f"{name}: {count} entries in the region table are more than {_ENTRIES_MAX}")
    regions: dict[bytes, tuple[int, int]] = {}
    for number in range(count):
        kind, offset, length, required = _REGION.unpack_from(table, _REGIONS.size + number * _REGION.size)
        if kind not in (_BAT_REGION, _METADATA_REGION):
            if required & 1:
                raise Unsupported(f"{name}: the VHDX region {uuid.UUID(bytes_le=kind)} is required and not known")
            continue
        if kind in regions:
            raise InvalidImage(f"{name}: the region {uuid.UUID(bytes_le=kind)} is listed twice")
        if offset % MIB or length % MIB or offset < MIB or not length:
            raise InvalidImage(
                f"{name}: a region of {length} bytes at {offset} is not made of whole MiB behind the first"
            )
        check_inside(reader, offset, length, "a region")
        regions[kind] = offset, length
    if len(regions) != 2:
        raise InvalidImage(f"{name}: the region table lacks the block allocation table or the metadata")
    (first, size), (second, _) = sorted(regions.values())
    if first + size > second:
        raise InvalidImage(f"{name}: the block allocation table and the metadata overlap")
    return regions


def _read_items(reader: ByteReader, region: int, region_size: int) -> dict[bytes, bytes]:
    """Return the metadata items that are known, from the region at ``region``."""
    name = reader.name
    table = reader.read_at(region, _METADATA_SIZE)
    magic, _, count, _ = _METADATA.unpack_from(table)
    if magic != b"metadata" or count > _ENTRIES_MAX:
        raise InvalidImage(f"{name}: there is no metadata table of at most {_ENTRIES_MAX} entries at {region}")
    items: dict[bytes, bytes] = {}
    for number in range(count):
        kind, offset, length, flags, _ = _ITEM.unpack_from(table, _METADATA.size + number * _ITEM.size)
        if kind == _PARENT_LOCATOR:
            raise Unsupported(f"{name} is a differencing VHDX and needs a parent; merge them with what wrote it")
        if kind not in _ITEM_SIZES or flags & _IS_USER:
            if flags & _IS_REQUIRED:
                raise Unsupported(f"{name}: the VHDX metadata {uuid.UUID(bytes_le=kind)} is required and not known")
            continue
        if kind in items:
            raise InvalidImage(f"{name}: the metadata {uuid.UUID(bytes_le=kind)} is listed twice")
        if length != _ITEM_SIZES[kind] or not _METADATA_SIZE <= offset <= region_size - length:
            raise InvalidImage(f"{name}: metadata of {length} bytes at {offset} of its region is not where it can be")
        items[kind] = reader.read_at(region + offset, length)
    for kind, what in _NEEDED_ITEMS.items():
        if kind not in items:
            raise InvalidImage(f"{name}: its metadata lacks the {what}")
    return items


def _is_sealed(data: bytes) -> bool:
    """Tell whether the checksum of a structure, computed with zeros in its place, is the one it has."""
    told = int.from_bytes(data[_CHECKSUM_AT : _CHECKSUM_AT + 4], "little")
    return crc32c(data[:_CHECKSUM_AT] + bytes(4) + data[_CHECKSUM_AT + 4 :]) == told
