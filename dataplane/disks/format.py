"""The bytes of a disk's folder: its state, and the records of a layer's change log. See docs/disks.md, "On the disk".

Nothing else packs or unpacks them. Integers are little-endian and unsigned; sums are XXH3-128, cut where said.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum

from dataplane.dataclass import asdict, dataclass, replace
from dataplane.disks.block_map import BLOCK_SIZE, PAGE_BLOCKS
from dataplane.engine.scan import xxh3
from dataplane.errors import Corrupt, StoreIncompatible
from dataplane.limits import SECTOR_SIZE, VIRTUAL_SIZE_MAX

VERSION = 1
STATE_FORMAT = "dataplane-disk"
STATE_SIZE_MAX = 1 << 16

LOG_MAGIC = b"dp-dlog\n"
LOG_HEADER = struct.Struct("<8sHHIQ16s8x16s")  # magic, version, flags, block size, layer, nonce, zeros, sum of the rest
assert LOG_HEADER.size == 64
NONCE_SIZE = 16
LOG_SUM_SIZE = 16

RECORD = struct.Struct("<B3xIQQ8s")  # kind, payload length, first, count, sum
assert RECORD.size == 32
SUM_SIZE = 8
"""Bytes of the sum of a record, and of the sum of a block in a WRITE record: the first of its XXH3-128."""

PAYLOAD_SIZE_MAX = 1 << 20


class RecordKind(IntEnum):
    """What a record of a change log says."""

    WRITE = 1  # blocks are written; payload: the sum of each block's new content
    ZERO = 2  # blocks read as zeros
    COMMIT = 3  # what records before byte `first` of the log say is durable, their data too
    PAGE = 4  # page `first` of the map; payload: its states, or one state for all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskState:
    """What a disk is. Sizes in bytes. `base_root` is a root of the store in dedup domain `domain`, None for no base.

    `layer` is the number of the layer that takes writes; `sealed` that of the one below it that a snapshot is still to
    merge into the base, None when there is none. `owner` names the pin that keeps the base alive, `origin` the image
    that the disk was made of, for people, and `origin_root` its root.
    """

    id: str
    size: int
    base_root: str | None
    domain: str
    owner: str
    origin: str
    origin_root: str | None
    layer: int
    sealed: int | None

    def to_json(self) -> bytes:
        """Return the state as it is stored."""
        fields: dict[str, object] = {"format": STATE_FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps({**fields, "checksum": _state_sum(fields)}, indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, what: str) -> DiskState:
        """Parse and check a stored state; raises Corrupt naming `what`, StoreIncompatible for another version."""
        try:
            fields = json.loads(data)
            checksum = fields.pop("checksum")
            if fields.pop("format") != STATE_FORMAT:
                raise Corrupt(f"{what} is not the state of a disk")
            version = fields.pop("version")
            if version != VERSION:
                raise StoreIncompatible(f"{what} has version {version}, this program knows version {VERSION}")
            state = cls(**fields)
            right = _state_sum({"format": STATE_FORMAT, "version": VERSION, **fields}) == checksum
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Corrupt(f"{what} is damaged: it is no state of a disk") from error
        if not right:
            raise Corrupt(f"{what} is damaged: it does not match its checksum")
        return state

    def moved_to(self, **changes: object) -> DiskState:
        """Return the state with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def _state_sum(fields: dict[str, object]) -> str:
    return xxh3(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hex()


def is_disk_size(size: int) -> bool:
    """Return whether a disk may have this size: a multiple of 512 bytes, not zero, at most 1 PiB."""
    return 0 < size <= VIRTUAL_SIZE_MAX and size % SECTOR_SIZE == 0


def log_header(layer: int, nonce: bytes) -> bytes:
    """Return the first bytes of the change log of a layer."""
    body = LOG_HEADER.pack(LOG_MAGIC, VERSION, 0, BLOCK_SIZE, layer, nonce, bytes(LOG_SUM_SIZE))[:-LOG_SUM_SIZE]
    return body + xxh3(body)


def parse_log_header(data: bytes, layer: int, what: str) -> bytes:
    """Return the nonce of a change log; raises Corrupt or StoreIncompatible naming `what`."""
    if len(data) < LOG_HEADER.size:
        raise Corrupt(f"{what} is cut short")
    head = bytes(data[: LOG_HEADER.size])
    magic, version, _flags, block_size, number, nonce, total = LOG_HEADER.unpack(head)
    if magic != LOG_MAGIC or xxh3(head[:-LOG_SUM_SIZE]) != total:
        raise Corrupt(f"{what} is damaged: its header does not match its checksum")
    if version != VERSION or block_size != BLOCK_SIZE:
        raise StoreIncompatible(f"{what} has version {version}, this program knows version {VERSION}")
    if number != layer:
        raise Corrupt(f"{what} is the log of layer {number}, not of layer {layer}")
    return bytes(nonce)


def record(
    nonce: bytes, position: int, kind: RecordKind, *, first: int, count: int = 0, payload: bytes | memoryview = b""
) -> bytes:
    """Return a record for byte `position` of the log with this nonce."""
    head = RECORD.pack(kind, len(payload), first, count, bytes(SUM_SIZE))[:-SUM_SIZE]
    return head + _record_sum(nonce, position, head, payload) + payload


def parse_record(nonce: bytes, data: memoryview, position: int) -> tuple[int, int, int, memoryview] | None:
    """Return (kind, first, count, payload) of the record at `position` of a log, or None when none is whole there."""
    body = position + RECORD.size
    if body > len(data):
        return None
    kind, length, first, count, total = RECORD.unpack_from(data, position)
    if length > PAYLOAD_SIZE_MAX or body + length > len(data):
        return None
    payload = data[body : body + length]
    head = bytes(data[position : body - SUM_SIZE])
    if _record_sum(nonce, position, head, payload) != total:
        return None
    return kind, first, count, payload


def page_payload(page: bytes) -> bytes:
    """Return what a PAGE record says of a page of states."""
    return page[:1] if page.count(page[0]) == PAGE_BLOCKS else page


def _record_sum(nonce: bytes, position: int, head: bytes, payload: bytes | memoryview) -> bytes:
    return xxh3(b"".join((nonce, position.to_bytes(8, "little"), head, payload)))[:SUM_SIZE]
