"""Headers of sparse VMDK extents: KDMV (hosted, with or without a footer) and COWD. All numbers are little-endian."""

from __future__ import annotations

import struct

from dataplane.byte_reader import ByteReader
from dataplane.dataclass import dataclass
from dataplane.errors import InvalidImage, Unsupported
from dataplane.formats.tables import check_inside, check_power, check_virtual_size
from dataplane.hints import TYPE_CHECKING
from dataplane.limits import (
    DECODED_SIZE_MAX,
    DESCRIPTOR_SIZE_MAX,
    GIB,
    GRAIN_DIRECTORY_SIZE_MAX,
    SECTOR_SIZE,
    VIRTUAL_SIZE_MAX,
)

if TYPE_CHECKING:
    from typing import Any

MAGIC = b"KDMV"
MAGIC_COWD = b"COWD"

# magic, version, flags, capacity, grain size, offset and size of the descriptor, entries of a grain table, offsets of
# the redundant grain directory, of the grain directory and of the first grain, unclean shutdown, line ends,
# compression: 79 bytes; all sizes and offsets are in sectors
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")

# magic, version, flags, capacity, grain size, offset and entries of the grain directory: 28 bytes; in sectors
_HEADER_COWD = struct.Struct("<4sIIIIII")

# value, size, type: 16 bytes at the start of a sector of its own
_MARKER = struct.Struct("<QII")
_MARKER_END_OF_STREAM = 0
_MARKER_FOOTER = 3

_FOOTER_SECTORS = 3  # the footer's marker, the footer, the marker of the stream's end

_NEWLINES_TOLD = 1 << 0
_HAS_REDUNDANT = 1 << 1
_HAS_ZERO_GRAINS = 1 << 2
_COMPRESSED = 1 << 16
_HAS_MARKERS = 1 << 17

_NEWLINES = b"\n \r\n"
_IN_FOOTER = (1 << 64) - 1
_VERSION_MAX = 3
_TABLE_ENTRIES_MAX = 512
_TABLE_ENTRIES_COWD = 4096
_SECTORS_MAX = VIRTUAL_SIZE_MAX // SECTOR_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseHeader:
    """What the header of a sparse extent says, after checks. Sizes and offsets are in bytes."""

    capacity: int
    grain_size: int
    table_entries: int  # of one grain table
    directory_offset: int
    compressed: bool
    has_markers: bool  # in front of compressed grains
    has_zero_grains: bool  # an entry of 1 is a grain of zeros
    descriptor_offset: int  # 0 when there is none
    descriptor_size: int

    @property
    def table_span(self) -> int:
        """Bytes of the disk that one grain table describes."""
        return self.grain_size * self.table_entries

    @property
    def directory_entries(self) -> int:
        """Entries of the grain directory that the capacity takes."""
        return -(-self.capacity // self.table_span)


def read_header(reader: ByteReader) -> SparseHeader:
    """Read and check the header of ``reader``, which begins with MAGIC, or its footer.

    Raises InvalidImage when a field breaks the rules of the format or the file ends too early, Unsupported for
    versions and features that are not read.
    """
    fields: tuple[Any, ...] = _HEADER.unpack(reader.read_at(0, _HEADER.size))
    if fields[0] != MAGIC:
        raise InvalidImage(f"{reader.name} is not a sparse VMDK extent: its first bytes are not the magic KDMV")
    if fields[9] == _IN_FOOTER:
        fields = _read_footer(reader)
    (_, version, flags, capacity, grain_size, descriptor_offset, descriptor_size, table_entries) = fields[:8]
    (redundant_offset, directory_offset, overhead, _, newlines, compression) = fields[8:]
    name = reader.name
    if not 1 <= version <= _VERSION_MAX:
        raise Unsupported(f"{name} is a sparse VMDK extent of version {version}; 1 to {_VERSION_MAX} are read")
    if flags & _NEWLINES_TOLD and newlines != _NEWLINES:
        raise InvalidImage(f"{name} is damaged: a transfer as text has changed line ends in its header")
    if compression > 1:
        raise Unsupported(f"{name}: VMDK compression {compression} is not known; deflate (1) is read")
    if flags & _COMPRESSED and not compression:
        raise InvalidImage(f"{name}: the flag for compressed grains contradicts compression 0")
    if not 1 <= table_entries <= _TABLE_ENTRIES_MAX:
        raise InvalidImage(f"{name}: {table_entries} entries in a grain table are not 1 to {_TABLE_ENTRIES_MAX}")
    if overhead > reader.size // SECTOR_SIZE:
        raise InvalidImage(f"{name} is cut short: its grains begin at sector {overhead}, behind its end")
    if directory_offset == 0 and flags & _HAS_REDUNDANT:
        directory_offset = redundant_offset
    header = SparseHeader(
        capacity=_bytes(name, capacity, "capacity"),
        grain_size=_bytes(name, grain_size, "grain size"),
        table_entries=table_entries,
        directory_offset=_bytes(name, directory_offset, "grain directory"),
        compressed=compression == 1,
        has_markers=bool(flags & _HAS_MARKERS),
        has_zero_grains=bool(flags & _HAS_ZERO_GRAINS),
        descriptor_offset=_bytes(name, descriptor_offset, "descriptor"),
        descriptor_size=_bytes(name, descriptor_size, "descriptor size") if descriptor_offset else 0,
    )
    _check(reader, header)
    return header


def read_header_cowd(reader: ByteReader) -> SparseHeader:
    """Read and check the header of ``reader``, which begins with MAGIC_COWD; raises as ``read_header`` does."""
    fields = _HEADER_COWD.unpack(reader.read_at(0, _HEADER_COWD.size))
    magic, version, _, capacity, grain_size, directory_offset, directory_entries = fields
    if magic != MAGIC_COWD:
        raise InvalidImage(f"{reader.name} is not a COWD extent: its first bytes are not the magic COWD")
    if version != 1:
        raise Unsupported(f"{reader.name} is a COWD extent of version {version}; version 1 is read")
    header = SparseHeader(
        capacity=capacity * SECTOR_SIZE,
        grain_size=grain_size * SECTOR_SIZE,
        table_entries=_TABLE_ENTRIES_COWD,
        directory_offset=directory_offset * SECTOR_SIZE,
        compressed=False,
        has_markers=False,
        has_zero_grains=False,
        descriptor_offset=0,
        descriptor_size=0,
    )
    _check(reader, header)
    if directory_entries < header.directory_entries:
        raise InvalidImage(
            f"{reader.name}: a grain directory of {directory_entries} entries, but the capacity takes "
            f"{header.directory_entries}"
        )
    return header


def read_descriptor(reader: ByteReader, header: SparseHeader) -> bytes | None:
    """Return the descriptor inside a sparse extent, or None when it has none or only room for one."""
    if not header.descriptor_offset:
        return None
    if not 0 < header.descriptor_size <= DESCRIPTOR_SIZE_MAX:
        raise InvalidImage(
            f"{reader.name}: a descriptor of {header.descriptor_size} bytes is not 1 to {DESCRIPTOR_SIZE_MAX}"
        )
    check_inside(reader, header.descriptor_offset, header.descriptor_size, "the descriptor")
    text = reader.read_at(header.descriptor_offset, header.descriptor_size)
    return None if text.startswith(b"\0") else text


def _read_footer(reader: ByteReader) -> tuple[Any, ...]:
    """Return the fields of the footer, a header near the end of a stream-optimized file."""
    start = reader.size - _FOOTER_SECTORS * SECTOR_SIZE
    if start < SECTOR_SIZE:
        raise InvalidImage(f"{reader.name} is cut short: its footer is missing")
    marker, footer, end = (
        reader.read_at(start + number * SECTOR_SIZE, SECTOR_SIZE) for number in range(_FOOTER_SECTORS)
    )
    _, size, kind = _MARKER.unpack_from(marker)
    fields = _HEADER.unpack_from(footer)
    if (size, kind, fields[0]) != (0, _MARKER_FOOTER, MAGIC) or _MARKER.unpack_from(end) != (
        0,
        0,
        _MARKER_END_OF_STREAM,
    ):
        raise InvalidImage(f"{reader.name} is cut short or damaged: there is no VMDK footer at {start}")
    if fields[9] == _IN_FOOTER:
        raise InvalidImage(f"{reader.name}: the footer at {start} does not tell where the grain directory is")
    return fields


def _bytes(name: str, sectors: int, what: str) -> int:
    """Return ``sectors`` in bytes, when they are not more than any disk or file has."""
    if sectors > _SECTORS_MAX:
        raise InvalidImage(f"{name}: the {what} of {sectors} sectors in the header is more than {_SECTORS_MAX}")
    return sectors * SECTOR_SIZE


def _check(reader: ByteReader, header: SparseHeader) -> None:
    """Raise unless grains and the grain directory are in bounds, before memory is taken for them."""
    name = reader.name
    check_power(name, header.grain_size, SECTOR_SIZE, GIB, "a grain")
    check_virtual_size(name, header.capacity)
    if header.compressed and header.grain_size > DECODED_SIZE_MAX:
        raise Unsupported(
            f"{name}: compressed grains of {header.grain_size} bytes; at most {DECODED_SIZE_MAX} are read"
        )
    if header.capacity == 0:
        raise Unsupported(f"{name} holds no data itself: its capacity is 0; give the file that does")
    if header.directory_offset == 0:
        raise InvalidImage(f"{name}: its header does not tell where the grain directory is")
    size = 4 * header.directory_entries
    if size > GRAIN_DIRECTORY_SIZE_MAX:
        raise InvalidImage(f"{name}: a grain directory of {size} bytes is more than {GRAIN_DIRECTORY_SIZE_MAX}")
    check_inside(reader, header.directory_offset, size, "the grain directory")
