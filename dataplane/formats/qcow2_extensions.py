"""Header extensions of qcow2: the few that are looked at, found among any others."""

from __future__ import annotations

import struct

from dataplane.byte_reader import ByteReader
from dataplane.dataclass import dataclass, field
from dataplane.errors import InvalidImage
from dataplane.limits import KIB

_EXTENSION = struct.Struct(">II")  # type, length of the data behind it, which is padded to 8 bytes
_END = 0
_BACKING_FORMAT = 0xE2792ACA
_FEATURE_NAMES = 0x6803F857
_COUNT_MAX = 256
_SIZE_MAX = 64 * KIB
"""Bytes of header extensions that are looked at."""

_FEATURE_NAME = struct.Struct(">BB46s")  # kind of feature, bit number, name padded with zeros: 48 bytes
_KIND_INCOMPATIBLE = 0
_FORMAT_LENGTH_MAX = 32


@dataclass(slots=True)
class Extensions:
    """What the header extensions say; text is printable ASCII and for messages or comparison only."""

    backing_format: str | None = None
    incompatible_names: dict[int, str] = field(default_factory=dict)  # bit -> what the image calls the feature


def read_extensions(reader: ByteReader, start: int, cluster_size: int) -> Extensions:
    """Read the extensions at ``start`` (bytes) of the first cluster; those of other kinds are skipped.

    Raises InvalidImage when one leaves the cluster.
    """
    area = reader.read_at(start, max(0, min(cluster_size, reader.size, start + _SIZE_MAX) - start))
    found = Extensions()
    at = 0
    for _ in range(_COUNT_MAX):
        if at + _EXTENSION.size > len(area):
            break
        kind, length = _EXTENSION.unpack_from(area, at)
        if kind == _END:
            break
        at += _EXTENSION.size
        if length > cluster_size - start - at:
            raise InvalidImage(f"{reader.name}: header extension {kind:#010x} of {length} bytes leaves its cluster")
        body = area[at : at + length]
        if kind == _FEATURE_NAMES:
            found.incompatible_names.update(_incompatible_names(body))
        elif kind == _BACKING_FORMAT:
            found.backing_format = printable_ascii(body[:_FORMAT_LENGTH_MAX])
        at += -(-length // 8) * 8
    return found


def printable_ascii(name: bytes) -> str:
    """Return a name from inside an image as plain ASCII: hostile text must not reach a terminal."""
    text = name.split(b"\0", 1)[0].decode("ascii", "replace")
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text)


def _incompatible_names(table: bytes) -> dict[int, str]:
    whole = table[: len(table) // _FEATURE_NAME.size * _FEATURE_NAME.size]
    return {
        bit: printable_ascii(name) for kind, bit, name in _FEATURE_NAME.iter_unpack(whole) if kind == _KIND_INCOMPATIBLE
    }
