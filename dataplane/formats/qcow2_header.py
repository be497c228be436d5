"""The qcow2 header: parsed and checked, versions 2 and 3. All numbers of the format are big-endian."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dataplane.byte_reader import ByteReader
from dataplane.errors import InvalidImage, Unsupported
from dataplane.extent import ExtentCodec
from dataplane.limits import L1_TABLE_SIZE_MAX, VIRTUAL_SIZE_MAX

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

_EXTENSION = struct.Struct(">II")  # type, length of the data behind it, which is padded to 8 bytes
_EXTENSION_END = 0
_EXTENSION_FEATURE_NAMES = 0x6803F857
_EXTENSIONS_MAX = 256
_EXTENSIONS_SIZE_MAX = 64 << 10
"""Bytes of header extensions that are looked at; they serve to put a name to a feature that is refused."""

_FEATURE_NAME = struct.Struct(">BB46s")  # kind of feature, bit number, name padded with zeros: 48 bytes
_KIND_INCOMPATIBLE = 0

_DIRTY = 1 << 0  # refcounts may be stale; they are not read here, so the image is as good as a clean one
_CORRUPT = 1 << 1
_EXTERNAL_DATA = 1 << 2
_COMPRESSION_TYPE = 1 << 3
_EXTENDED_L2 = 1 << 4
_KNOWN_INCOMPATIBLE = _DIRTY | _CORRUPT | _EXTERNAL_DATA | _COMPRESSION_TYPE | _EXTENDED_L2

_ENCRYPTIONS = {1: "AES", 2: "LUKS"}
_COMPRESSIONS = {0: ExtentCodec.DEFLATE, 1: ExtentCodec.ZSTD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2Header:
    """What the header says, after checks. Sizes and offsets are in bytes."""

    version: int
    cluster_bits: int
    virtual_size: int
    l1_offset: int
    l1_entries: int
    codec: ExtentCodec  # of every compressed cluster
    encryption: int
    incompatible: int  # feature bits
    has_backing_file: bool

    @property
    def cluster_size(self) -> int:
        """Bytes in a cluster, 512 to 2 MiB."""
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        """Entries in an L2 table, which fills one cluster."""
        return self.cluster_size // 8


def read_header(reader: ByteReader) -> Qcow2Header:
    """Read and check the header of ``reader``; what is not supported is refused by name.

    Raises InvalidImage when a field breaks the rules of the format or the file ends too early, Unsupported for
    versions and features that are not read.
    """
    fixed = _HEADER_V2.unpack(reader.read_at(0, _HEADER_V2.size))
    (magic, version, backing_offset, backing_length, cluster_bits, virtual_size) = fixed[:6]
    (encryption, l1_entries, l1_offset) = fixed[6:9]
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
    incompatible, header_length = 0, _HEADER_V2.size
    if version == 3:
        incompatible, header_length = _read_v3(reader, 1 << cluster_bits)
    _refuse_unknown(reader, incompatible, header_length, 1 << cluster_bits)
    header = Qcow2Header(
        version=version,
        cluster_bits=cluster_bits,
        virtual_size=virtual_size,
        l1_offset=l1_offset,
        l1_entries=l1_entries,
        codec=_codec(reader, incompatible, header_length),
        encryption=encryption,
        incompatible=incompatible,
        has_backing_file=backing_offset != 0 and backing_length != 0,
    )
    _refuse_features(reader.name, header)
    _check_sizes(reader, header)
    return header


def _read_v3(reader: ByteReader, cluster_size: int) -> tuple[int, int]:
    """Return the incompatible feature bits and the header's length."""
    incompatible, _, _, refcount_order, length = _HEADER_V3.unpack(reader.read_at(_HEADER_V2.size, _HEADER_V3.size))
    if not _HEADER_V3_END <= length <= cluster_size:
        raise InvalidImage(
            f"{reader.name}: a header of {length} bytes is not between {_HEADER_V3_END} and {cluster_size}"
        )
    if refcount_order > _REFCOUNT_ORDER_MAX:
        raise InvalidImage(f"{reader.name}: refcount_order is {refcount_order}, more than {_REFCOUNT_ORDER_MAX}")
    return incompatible, length


def _codec(reader: ByteReader, incompatible: int, header_length: int) -> ExtentCodec:
    kind = reader.read_at(_HEADER_V3_END, 1)[0] if header_length > _HEADER_V3_END else 0
    if kind not in _COMPRESSIONS:
        raise Unsupported(f"{reader.name}: compression type {kind} is not known; zlib and zstd are read")
    if bool(incompatible & _COMPRESSION_TYPE) != (kind != 0):
        raise InvalidImage(f"{reader.name}: compression type {kind} contradicts the feature bit for it")
    return _COMPRESSIONS[kind]


def _refuse_unknown(reader: ByteReader, incompatible: int, header_length: int, cluster_size: int) -> None:
    """Raise Unsupported when a feature bit is set that nobody knew of when this was written."""
    names = _feature_names(reader, header_length, cluster_size)
    unknown = incompatible & ~_KNOWN_INCOMPATIBLE
    if unknown:
        bit = (unknown & -unknown).bit_length() - 1
        called = f" ({names[bit]})" if names.get(bit) else ""
        raise Unsupported(f"{reader.name}: qcow2 feature bit {bit}{called} is not known; convert it with what wrote it")


def _feature_names(reader: ByteReader, start: int, cluster_size: int) -> dict[int, str]:
    """Return the names that the image gives its incompatible feature bits; other header extensions are skipped."""
    area = reader.read_at(start, max(0, min(cluster_size, reader.size, start + _EXTENSIONS_SIZE_MAX) - start))
    names: dict[int, str] = {}
    at = 0
    for _ in range(_EXTENSIONS_MAX):
        if at + _EXTENSION.size > len(area):
            break
        kind, length = _EXTENSION.unpack_from(area, at)
        if kind == _EXTENSION_END:
            break
        at += _EXTENSION.size
        if length > cluster_size - start - at:
            raise InvalidImage(f"{reader.name}: header extension {kind:#010x} of {length} bytes leaves its cluster")
        if kind == _EXTENSION_FEATURE_NAMES:
            table = area[at : at + length]
            for feature, bit, name in _FEATURE_NAME.iter_unpack(
                table[: len(table) // _FEATURE_NAME.size * _FEATURE_NAME.size]
            ):
                if feature == _KIND_INCOMPATIBLE:
                    names[bit] = _printable(name)
        at += -(-length // 8) * 8
    return names


def _refuse_features(name: str, header: Qcow2Header) -> None:
    """Raise Unsupported for the first feature that is known and not read."""
    if header.incompatible & _CORRUPT:
        raise Unsupported(f"{name} is marked corrupt by the program that wrote it; repair it: qemu-img check -r all")
    if header.encryption in _ENCRYPTIONS:
        method = _ENCRYPTIONS[header.encryption]
        raise Unsupported(f"{name} is encrypted ({method}); decrypt it first: qemu-img convert with its secret")
    if header.encryption:
        raise InvalidImage(f"{name}: encryption method {header.encryption} does not exist")
    if header.incompatible & _EXTERNAL_DATA:
        raise Unsupported(
            f"{name} keeps its data in an external data file; make one file of it: qemu-img convert -O qcow2"
        )
    if header.incompatible & _EXTENDED_L2:
        raise Unsupported(f"{name} uses extended L2 entries (subclusters); convert it: qemu-img convert -O qcow2")
    if header.has_backing_file:
        raise Unsupported(f"{name} needs a backing file; make one file of the chain: qemu-img convert -O qcow2")


def _check_sizes(reader: ByteReader, header: Qcow2Header) -> None:
    """Raise InvalidImage unless the virtual size and the L1 table are in bounds, before memory is taken for them."""
    name = reader.name
    if header.virtual_size == 0:
        raise InvalidImage(f"{name} has a virtual size of 0 bytes; an image holds at least one byte")
    if header.virtual_size > VIRTUAL_SIZE_MAX:
        raise InvalidImage(f"{name}: a virtual size of {header.virtual_size} bytes is more than {VIRTUAL_SIZE_MAX}")
    table_size = header.l1_entries * 8
    if table_size > L1_TABLE_SIZE_MAX:
        raise InvalidImage(f"{name}: an L1 table of {table_size} bytes is more than {L1_TABLE_SIZE_MAX}")
    needed = -(-header.virtual_size // (header.cluster_size * header.l2_entries))
    if header.l1_entries < needed:
        raise InvalidImage(f"{name}: {header.l1_entries} L1 entries, but the virtual size takes {needed}")
    if header.l1_offset % header.cluster_size or header.l1_offset == 0:
        raise InvalidImage(f"{name}: the L1 table at {header.l1_offset} does not begin at a cluster of its own")
    if header.l1_offset > reader.size - table_size:
        raise InvalidImage(
            f"{name} is cut short or damaged: its L1 table at {header.l1_offset} ends behind its {reader.size} bytes"
        )


def _printable(name: bytes) -> str:
    """Return a name from inside an image as plain ASCII: hostile text must not reach a terminal."""
    text = name.split(b"\0", 1)[0].decode("ascii", "replace")
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text)
