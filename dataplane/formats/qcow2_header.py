"""The qcow2 header: parsed and checked, versions 2 and 3. All numbers of the format are big-endian."""

from __future__ import annotations

import struct

from dataplane.byte_reader import ByteReader
from dataplane.dataclass import dataclass
from dataplane.errors import InvalidImage, Unsupported
from dataplane.extent import ExtentCodec
from dataplane.formats.qcow2_extensions import Extensions, printable_ascii, read_extensions
from dataplane.limits import KIB, L1_TABLE_SIZE_MAX, SECTOR_SIZE, VIRTUAL_SIZE_MAX

MAGIC = b"QFI\xfb"

CLUSTER_BITS_MIN = 9
CLUSTER_BITS_MAX = 21

# magic, version, backing name offset and size, cluster_bits, virtual size, encryption, entries and offset of the L1
# table, offset and clusters of the refcount table, snapshots and their offset: 72 bytes
_HEADER_V2 = struct.Struct(">4sIQIIQIIQQIIQ")

# incompatible, compatible and autoclear feature bits, refcount_order, header length: 32 bytes
_HEADER_V3 = struct.Struct(">QQQII")

_HEADER_V3_END = _HEADER_V2.size + _HEADER_V3.size
_REFCOUNT_ORDER_MAX = 6
_BACKING_NAME_LENGTH_MAX = 1023
_SHOWN_NAME_LENGTH_MAX = 100
_EXTENDED_L2_CLUSTER_SIZE_MIN = 16 * KIB

_DIRTY = 1 << 0  # refcounts may be stale; they are not read here, so the image is as good as a clean one
_CORRUPT = 1 << 1
_EXTERNAL_DATA = 1 << 2
_COMPRESSION_TYPE = 1 << 3
_EXTENDED_L2 = 1 << 4
_KNOWN_INCOMPATIBLE = _DIRTY | _CORRUPT | _EXTERNAL_DATA | _COMPRESSION_TYPE | _EXTENDED_L2

_RAW_EXTERNAL_DATA = 1 << 1  # autoclear: the data file is a raw disk of its own

_ENCRYPTIONS = {1: "AES", 2: "LUKS"}
_COMPRESSIONS = {0: ExtentCodec.DEFLATE, 1: ExtentCodec.ZSTD}


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskState:
    """One state of the disk that an image holds: the active one, or an internal snapshot. Sizes are in bytes."""

    what: str  # "the image", or which snapshot; for messages
    virtual_size: int
    l1_offset: int
    l1_entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2Header:
    """What the header says, after checks. Sizes and offsets are in bytes."""

    version: int
    cluster_bits: int
    active: DiskState
    codec: ExtentCodec  # of every compressed cluster
    encryption: int
    incompatible: int  # feature bits
    snapshot_count: int
    snapshots_offset: int
    backing_name: str | None  # printable ASCII; for messages, never to be opened
    backing_format: str | None  # as the image says; None when it does not

    @property
    def cluster_size(self) -> int:
        """Bytes in a cluster, 512 to 2 MiB."""
        return 1 << self.cluster_bits

    @property
    def has_subclusters(self) -> bool:
        """Whether entries of L2 tables are extended ones: 16 bytes, with a bitmap for 32 subclusters."""
        return bool(self.incompatible & _EXTENDED_L2)

    @property
    def has_data_file(self) -> bool:
        """Whether clusters are in a file of their own."""
        return bool(self.incompatible & _EXTERNAL_DATA)

    @property
    def l2_entries(self) -> int:
        """Entries in an L2 table, which fills one cluster."""
        return self.cluster_size // (16 if self.has_subclusters else 8)

    @property
    def l2_span(self) -> int:
        """Bytes of the disk that one L2 table describes."""
        return self.cluster_size * self.l2_entries


def read_header(reader: ByteReader) -> Qcow2Header:
    """Read and check the header of ``reader``; what is not supported is refused by name.

    Raises InvalidImage when a field breaks the rules of the format or the file ends too early, Unsupported for
    versions and features that are not read.
    """
    fixed = _HEADER_V2.unpack(reader.read_at(0, _HEADER_V2.size))
    (magic, version, backing_offset, backing_length, cluster_bits, virtual_size) = fixed[:6]
    (encryption, l1_entries, l1_offset, _, _, snapshot_count, snapshots_offset) = fixed[6:]
    if magic != MAGIC:
        raise InvalidImage(f"{reader.name} is not a qcow2 image: its first bytes are not the qcow2 magic")
    if version == 1:
        raise Unsupported(f"{reader.name} is a qcow image of version 1; convert it: qemu-img convert -O qcow2")
    if version not in (2, 3):
        raise Unsupported(f"{reader.name} is a qcow2 image of version {version}; versions 2 and 3 are read")
    if not CLUSTER_BITS_MIN <= cluster_bits <= CLUSTER_BITS_MAX:
        raise InvalidImage(
            f"{reader.name}: cluster_bits is {cluster_bits}, not {CLUSTER_BITS_MIN} to {CLUSTER_BITS_MAX}"
        )
    incompatible, autoclear, header_length = 0, 0, _HEADER_V2.size
    if version == 3:
        incompatible, autoclear, header_length = _read_v3(reader, 1 << cluster_bits)
    extensions = read_extensions(reader, header_length, 1 << cluster_bits)
    _refuse_unknown(reader.name, incompatible, extensions)
    header = Qcow2Header(
        version=version,
        cluster_bits=cluster_bits,
        active=DiskState(what=reader.name, virtual_size=virtual_size, l1_offset=l1_offset, l1_entries=l1_entries),
        codec=_codec(reader, incompatible, header_length),
        encryption=encryption,
        incompatible=incompatible,
        snapshot_count=snapshot_count,
        snapshots_offset=snapshots_offset,
        backing_name=_backing_name(reader, backing_offset, backing_length, 1 << cluster_bits),
        backing_format=extensions.backing_format,
    )
    _refuse_features(reader.name, header)
    _check_layout(reader.name, header, autoclear)
    check_state(reader, header, header.active)
    return header


def check_state(reader: ByteReader, header: Qcow2Header, state: DiskState) -> None:
    """Raise InvalidImage unless the virtual size and the L1 table are in bounds, before memory is taken for them."""
    name = state.what
    if state.virtual_size > VIRTUAL_SIZE_MAX:
        raise InvalidImage(f"{name}: a virtual size of {state.virtual_size} bytes is more than {VIRTUAL_SIZE_MAX}")
    table_size = state.l1_entries * 8
    if table_size > L1_TABLE_SIZE_MAX:
        raise InvalidImage(f"{name}: an L1 table of {table_size} bytes is more than {L1_TABLE_SIZE_MAX}")
    needed = -(-state.virtual_size // header.l2_span)
    if state.l1_entries < needed:
        raise InvalidImage(f"{name}: {state.l1_entries} L1 entries, but the virtual size takes {needed}")
    if needed == 0:
        return  # an empty disk has no table
    if state.l1_offset % header.cluster_size or state.l1_offset == 0:
        raise InvalidImage(f"{name}: the L1 table at {state.l1_offset} does not begin at a cluster of its own")
    if state.l1_offset > reader.size - table_size:
        raise InvalidImage(
            f"{name} is cut short or damaged: its L1 table at {state.l1_offset} ends behind its {reader.size} bytes"
        )


def rounded_size(virtual_size: int) -> int:
    """Return ``virtual_size`` (bytes) rounded up to whole sectors."""
    return -(-virtual_size // SECTOR_SIZE) * SECTOR_SIZE


def _read_v3(reader: ByteReader, cluster_size: int) -> tuple[int, int, int]:
    """Return the incompatible and autoclear feature bits and the header's length."""
    incompatible, _, autoclear, refcount_order, length = _HEADER_V3.unpack(
        reader.read_at(_HEADER_V2.size, _HEADER_V3.size)
    )
    if not _HEADER_V3_END <= length <= cluster_size:
        raise InvalidImage(
            f"{reader.name}: a header of {length} bytes is not between {_HEADER_V3_END} and {cluster_size}"
        )
    if refcount_order > _REFCOUNT_ORDER_MAX:
        raise InvalidImage(f"{reader.name}: refcount_order is {refcount_order}, more than {_REFCOUNT_ORDER_MAX}")
    return incompatible, autoclear, length


def _backing_name(reader: ByteReader, offset: int, length: int, cluster_size: int) -> str | None:
    """Return the name of the backing file, fit for a message, or None when the image has none."""
    if offset == 0 or length == 0:
        return None
    if length > min(_BACKING_NAME_LENGTH_MAX, cluster_size - offset):
        raise InvalidImage(
            f"{reader.name}: a backing file name of {length} bytes at {offset} leaves the first cluster or is more "
            f"than {_BACKING_NAME_LENGTH_MAX} bytes"
        )
    name = printable_ascii(reader.read_at(offset, length))
    return name if len(name) <= _SHOWN_NAME_LENGTH_MAX else name[:_SHOWN_NAME_LENGTH_MAX] + "..."


def _codec(reader: ByteReader, incompatible: int, header_length: int) -> ExtentCodec:
    kind = reader.read_at(_HEADER_V3_END, 1)[0] if header_length > _HEADER_V3_END else 0
    if kind not in _COMPRESSIONS:
        raise Unsupported(f"{reader.name}: compression type {kind} is not known; zlib and zstd are read")
    if bool(incompatible & _COMPRESSION_TYPE) != (kind != 0):
        raise InvalidImage(f"{reader.name}: compression type {kind} contradicts the feature bit for it")
    return _COMPRESSIONS[kind]


def _refuse_unknown(name: str, incompatible: int, extensions: Extensions) -> None:
    """Raise Unsupported when a feature bit is set that nobody knew of when this was written."""
    unknown = incompatible & ~_KNOWN_INCOMPATIBLE
    if unknown:
        bit = (unknown & -unknown).bit_length() - 1
        called = extensions.incompatible_names.get(bit)
        shown = f" ({called})" if called else ""
        raise Unsupported(f"{name}: qcow2 feature bit {bit}{shown} is not known; convert it with what wrote it")


def _refuse_features(name: str, header: Qcow2Header) -> None:
    """Raise Unsupported for the first feature that is known and not read."""
    if header.incompatible & _CORRUPT:
        raise Unsupported(f"{name} is marked corrupt by the program that wrote it; repair it: qemu-img check -r all")
    if header.encryption in _ENCRYPTIONS:
        method = _ENCRYPTIONS[header.encryption]
        raise Unsupported(f"{name} is encrypted ({method}); decrypt it first: qemu-img convert with its secret")
    if header.encryption:
        raise InvalidImage(f"{name}: encryption method {header.encryption} does not exist")


def _check_layout(name: str, header: Qcow2Header, autoclear: int) -> None:
    """Raise InvalidImage when features contradict each other."""
    if header.has_subclusters and header.cluster_size < _EXTENDED_L2_CLUSTER_SIZE_MIN:
        raise InvalidImage(
            f"{name}: extended L2 entries need clusters of {_EXTENDED_L2_CLUSTER_SIZE_MIN} bytes, "
            f"not {header.cluster_size}"
        )
    if header.has_data_file and autoclear & _RAW_EXTERNAL_DATA and header.backing_name is not None:
        raise InvalidImage(f"{name}: a raw external data file and a backing file exclude each other")
