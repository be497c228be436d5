"""The bytes of every file in a store: the only place that packs or unpacks them. FORMAT.md says the same in words.

All integers are little-endian. Every structure carries a magic, a version and a checksum; a reader refuses what it does
not know and names what is damaged.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Sequence

from dataplane.dataclass import dataclass
from dataplane.engine.scan import blake3, xxh3
from dataplane.errors import Corrupt, StoreIncompatible
from dataplane.limits import PAGE_CHUNKS

if sys.byteorder != "little":
    raise ImportError("store files are little-endian and read in place: big-endian machines are not supported")

VERSION = 1
ID_SIZE = 32
NONCE_SIZE = 16
SUM_SIZE = 16
PAGE_SIZE = PAGE_CHUNKS * ID_SIZE
ZERO_ID = bytes(ID_SIZE)

STORE_FORMAT = "dataplane-store"

PACK_HEADER = struct.Struct("<8sHH4x16s16s16x")  # magic, version, flags, nonce, domain tag
PACK_FOOTER = struct.Struct("<8sHHIQ8x16s16s")  # magic, version, flags, chunks, table offset, table sum, footer sum
PACK_MAGIC = b"dp-pack\n"
PACK_END_MAGIC = b"dp-pend\n"
PACK_ENTRY_SIZE = ID_SIZE + 4 + 4

RUN_HEADER = struct.Struct("<8sHHIQQQQQ8x")  # magic, version, flags, packs, entries, filter blocks, 3 section offsets
RUN_FOOTER = struct.Struct("<8sHH4xQQ16s16s")  # magic, version, flags, covered, sums offset, sums sum, footer sum
RUN_MAGIC = b"dp-run\n\0"
RUN_END_MAGIC = b"dp-rend\n"
COUNTS_MAGIC = b"dp-cnts\n"
RUN_ENTRY_SIZE = 48
RUN_BLOCK_SIZE = 64 << 10
FILTER_BLOCK_SIZE = 32
FILTER_ENTRIES_PER_BLOCK = 20  # 12.8 bits an entry: about one false hit in 200

ROOT_HEADER = struct.Struct(
    "<8sHHIQIIQ"
)  # magic, version, flags, chunk size, virtual size, page chunks, domain length, pages
ROOT_MAGIC = b"dp-root\n"
ROOT_UNFINISHED = 1  # a flag
ROOT_ENTRY = struct.Struct("<Q32s")  # page number, page id

assert PACK_HEADER.size == 64
assert PACK_FOOTER.size == 64
assert RUN_HEADER.size == 64
assert RUN_FOOTER.size == 64
assert ROOT_HEADER.size == 40
assert ROOT_ENTRY.size == 40

DOMAIN_LENGTH_MAX = 255


# ---------------------------------------------------------------------------------------------- keys
def domain_key(secret: bytes, domain: str) -> bytes:
    """Return the key of the chunk ids in a dedup domain: BLAKE3 of its name keyed with the secret, 32 bytes."""
    return blake3(b"dataplane dedup domain v1\0" + domain.encode(), secret)


def domain_tag(key: bytes) -> bytes:
    """Return what tells the packs of one dedup domain from those of another: 16 bytes, no help in finding the key."""
    return blake3(b"dataplane domain tag v1\0", key)[:16]


def secret_check(secret: bytes) -> str:
    """Return what ``store.json`` keeps to notice another store's secret: hexadecimal, and no help in finding it."""
    return blake3(b"dataplane secret check v1\0", secret)[:16].hex()


# ---------------------------------------------------------------------------------------------- store.json
@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHeader:
    """What a store is, fixed at its creation."""

    store_id: str
    chunk_size: int
    codec: str
    secret_check: str

    def to_json(self) -> str:
        """Return the text of ``store.json``."""
        fields = {
            "format": STORE_FORMAT,
            "version": VERSION,
            "store_id": self.store_id,
            "chunk_size": self.chunk_size,
            "codec": self.codec,
            "secret_check": self.secret_check,
        }
        return json.dumps({**fields, "checksum": json_checksum(fields)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> StoreHeader:
        """Parse ``store.json``; raises StoreIncompatible for another format or version, Corrupt when it is damaged."""
        try:
            fields = json.loads(text)
            checksum = fields.pop("checksum")
            kind, version = fields.pop("format"), fields.pop("version")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise Corrupt("store.json is damaged: it does not parse; restore it from a backup") from error
        if kind != STORE_FORMAT:
            raise StoreIncompatible(f"store.json describes {kind!r}, not a {STORE_FORMAT}")
        if version != VERSION:
            raise StoreIncompatible(
                f"store.json has format version {version}, this program reads version {VERSION}: use a matching release"
            )
        if checksum != json_checksum({"format": kind, "version": version, **fields}):
            raise Corrupt("store.json is damaged: its checksum does not match; restore it from a backup")
        try:
            return cls(**fields)
        except TypeError as error:
            raise Corrupt(f"store.json lacks or adds a field: {error}") from error


def json_checksum(fields: dict[str, object]) -> str:
    """Return the XXH3-128 of the canonical JSON of `fields`, in hexadecimal."""
    return xxh3(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hex()


# ---------------------------------------------------------------------------------------------- packs
@dataclass(frozen=True, slots=True, kw_only=True)
class PackTable:
    """The chunks of a pack, in the order in which they lie there; offsets follow from the lengths."""

    ids: bytes
    stored_lengths: memoryview
    plain_lengths: memoryview

    def __len__(self) -> int:
        return len(self.stored_lengths)


def pack_header(nonce: bytes, key: bytes) -> bytes:
    """Return the first bytes of a pack of chunks whose ids are made with `key`.

    `nonce` makes the names of packs with equal tables differ.
    """
    return PACK_HEADER.pack(PACK_MAGIC, VERSION, 0, nonce, domain_tag(key))


def parse_pack_header(header: bytes, what: str) -> bytes:
    """Return the domain tag of a pack; raises Corrupt naming `what`, StoreIncompatible for another version."""
    magic, version, _flags, _nonce, tag = PACK_HEADER.unpack(header)
    check_kind(magic, PACK_MAGIC, version, what)
    return bytes(tag)


def pack_table(ids: bytes, stored_lengths: bytes, plain_lengths: bytes) -> bytes:
    """Return a pack's table: the ids, then the stored lengths, then the plain lengths (32-bit each)."""
    return ids + stored_lengths + plain_lengths


def pack_footer(table: bytes, table_offset: int) -> bytes:
    """Return the last bytes of a pack."""
    count = len(table) // PACK_ENTRY_SIZE
    return sealed(PACK_FOOTER, PACK_END_MAGIC, VERSION, 0, count, table_offset, xxh3(table))


def pack_name(header: bytes, table: bytes) -> bytes:
    """Return a pack's name: 32 bytes, the BLAKE3 of its header and table."""
    return blake3(header + table)


def parse_pack_footer(footer: bytes, file_size: int, what: str) -> tuple[int, int, bytes]:
    """Return (table offset, table length, table sum) in bytes; raises Corrupt naming `what`."""
    magic, version, _flags, count, offset, table_sum = unsealed(PACK_FOOTER, footer, what)
    check_kind(magic, PACK_END_MAGIC, version, what)
    length = count * PACK_ENTRY_SIZE
    if offset < PACK_HEADER.size or offset + length + PACK_FOOTER.size != file_size:
        raise Corrupt(f"{what} is damaged: its footer describes a file of another size")
    return offset, length, table_sum


def parse_pack_table(table: bytes, table_sum: bytes, table_offset: int, what: str) -> PackTable:
    """Return the checked table of a pack; raises Corrupt naming `what`."""
    if xxh3(table) != table_sum:
        raise Corrupt(f"the table of {what} is damaged: its checksum does not match")
    count = len(table) // PACK_ENTRY_SIZE
    lengths = memoryview(table)[ID_SIZE * count :].cast("I")
    parsed = PackTable(
        ids=table[: ID_SIZE * count], stored_lengths=lengths[:count], plain_lengths=lengths[count : 2 * count]
    )
    if PACK_HEADER.size + sum(parsed.stored_lengths) != table_offset:
        raise Corrupt(f"the table of {what} is damaged: its chunks do not fill the pack")
    return parsed


# ---------------------------------------------------------------------------------------------- runs
@dataclass(frozen=True, slots=True, kw_only=True)
class RunLayout:
    """Where the sections of a run file lie, in bytes."""

    pack_count: int
    entry_count: int
    filter_blocks: int
    packs_offset: int
    filter_offset: int
    entries_offset: int
    covered: int
    sums_offset: int

    @classmethod
    def plan(cls, pack_count: int, entry_count: int) -> RunLayout:
        """Return the layout of a run with so many packs and entries; sections start at multiples of 64."""
        filter_blocks = -(-entry_count // FILTER_ENTRIES_PER_BLOCK)
        packs_offset = RUN_HEADER.size
        filter_offset = round_up(packs_offset + ID_SIZE * pack_count, 64)
        entries_offset = round_up(filter_offset + FILTER_BLOCK_SIZE * filter_blocks, 64)
        covered = entries_offset + RUN_ENTRY_SIZE * entry_count
        return cls(
            pack_count=pack_count,
            entry_count=entry_count,
            filter_blocks=filter_blocks,
            packs_offset=packs_offset,
            filter_offset=filter_offset,
            entries_offset=entries_offset,
            covered=covered,
            sums_offset=round_up(covered, 64),
        )


def run_head(layout: RunLayout, packs: Sequence[bytes], magic: bytes = RUN_MAGIC) -> bytes:
    """Return a run file up to the end of its pack names."""
    header = RUN_HEADER.pack(
        magic, VERSION, 0, layout.pack_count, layout.entry_count, layout.filter_blocks,
        layout.packs_offset, layout.filter_offset, layout.entries_offset,
    )  # fmt: skip
    return header + b"".join(packs)


def run_tail(layout: RunLayout, guarded: memoryview) -> bytes:
    """Return what follows the covered bytes of a run file, `guarded`, from `sums_offset` on."""
    sums = b"".join(xxh3(guarded[at : at + RUN_BLOCK_SIZE]) for at in range(0, layout.covered, RUN_BLOCK_SIZE))
    return sums + sealed(RUN_FOOTER, RUN_END_MAGIC, VERSION, 0, layout.covered, layout.sums_offset, xxh3(sums))


def build_run(layout: RunLayout, packs: Sequence[bytes], filter_bytes: bytes, entries: bytes) -> bytes:
    """Return a whole run file."""
    head = run_head(layout, packs)
    made = bytearray(layout.sums_offset)
    made[: len(head)] = head
    made[layout.filter_offset : layout.filter_offset + len(filter_bytes)] = filter_bytes
    made[layout.entries_offset : layout.entries_offset + len(entries)] = entries
    return bytes(made) + run_tail(layout, memoryview(bytes(made))[: layout.covered])


def run_name(run: bytes | memoryview) -> bytes:
    """Return a run's name: 32 bytes, the BLAKE3 of the file."""
    return blake3(run)


def parse_run(data: memoryview, what: str, run_magic: bytes = RUN_MAGIC) -> tuple[RunLayout, list[bytes]]:
    """Return the layout of a mapped run file and the names of its packs; a count file has none, and its own magic.

    Checks the footer, the table of checksums, and the blocks under the header and the pack names; raises Corrupt.
    """
    if len(data) < RUN_HEADER.size + RUN_FOOTER.size:
        raise Corrupt(f"{what} is cut short")
    footer = bytes(data[-RUN_FOOTER.size :])
    magic, version, _flags, covered, sums_offset, sums_sum = unsealed(RUN_FOOTER, footer, what)
    check_kind(magic, RUN_END_MAGIC, version, what)
    sums = data[sums_offset : len(data) - RUN_FOOTER.size]
    blocks = -(-covered // RUN_BLOCK_SIZE)
    if covered < RUN_HEADER.size or sums_offset != round_up(covered, 64) or len(sums) != SUM_SIZE * blocks:
        raise Corrupt(f"{what} is damaged: its footer describes a file of another size")
    if xxh3(sums) != sums_sum:
        raise Corrupt(f"{what} is damaged: the table of checksums does not match its own")
    check_run_blocks(data, sums, 0, RUN_HEADER.size, covered, what)
    magic, version, _flags, packs, entries, filter_blocks, *offsets = RUN_HEADER.unpack_from(data)
    check_kind(magic, run_magic, version, what)
    layout = RunLayout.plan(packs, entries)
    if (filter_blocks, *offsets, covered) != (
        layout.filter_blocks, layout.packs_offset, layout.filter_offset, layout.entries_offset, layout.covered
    ):  # fmt: skip
        raise Corrupt(f"{what} is damaged: its sections are not where its counts put them")
    end = layout.packs_offset + ID_SIZE * packs
    check_run_blocks(data, sums, layout.packs_offset, end, covered, what)
    return layout, [bytes(data[at : at + ID_SIZE]) for at in range(layout.packs_offset, end, ID_SIZE)]


def check_run_blocks(data: memoryview, sums: memoryview, start: int, end: int, covered: int, what: str) -> None:
    """Raise Corrupt unless the blocks under bytes [start, end) match their checksums."""
    for block in range(start // RUN_BLOCK_SIZE, -(-end // RUN_BLOCK_SIZE)):
        at = block * RUN_BLOCK_SIZE
        if xxh3(data[at : min(at + RUN_BLOCK_SIZE, covered)]) != sums[SUM_SIZE * block : SUM_SIZE * (block + 1)]:
            raise Corrupt(f"{what} is damaged: the block at {at} does not match its checksum")


# ---------------------------------------------------------------------------------------------- roots
@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The top of an image's manifest. `pages` has (page number, page id) of pages that are not all zero, ascending."""

    virtual_size: int
    chunk_size: int
    domain: str
    pages: tuple[tuple[int, bytes], ...]
    unfinished: bool = False
    """Whether it is what an import has stored so far, and no image."""

    def to_bytes(self) -> bytes:
        """Return the root as it is stored; its keyed BLAKE3 names the content."""
        name = self.domain.encode()
        flags = ROOT_UNFINISHED if self.unfinished else 0
        header = ROOT_HEADER.pack(
            ROOT_MAGIC, VERSION, flags, self.chunk_size, self.virtual_size, PAGE_CHUNKS, len(name), len(self.pages)
        )
        return header + name + b"".join(ROOT_ENTRY.pack(number, page) for number, page in self.pages)

    @classmethod
    def from_bytes(cls, data: bytes, what: str) -> Root:
        """Parse a verified root; raises Corrupt naming `what`, StoreIncompatible for another version."""
        if len(data) < ROOT_HEADER.size:
            raise Corrupt(f"{what} is cut short")
        magic, version, flags, chunk_size, virtual_size, page_chunks, name_length, count = ROOT_HEADER.unpack_from(data)
        check_kind(magic, ROOT_MAGIC, version, what)
        start = ROOT_HEADER.size + name_length
        if page_chunks != PAGE_CHUNKS or len(data) != start + ROOT_ENTRY.size * count:
            raise Corrupt(f"{what} is damaged: its counts do not fit its length")
        pages = tuple(ROOT_ENTRY.iter_unpack(data[start:]))
        numbers = [number for number, _ in pages]
        limit = -(-virtual_size // (chunk_size * PAGE_CHUNKS)) if chunk_size else 0
        if numbers != sorted(set(numbers)) or (numbers and numbers[-1] >= limit):
            raise Corrupt(f"{what} is damaged: its pages are not in order or lie past the end of the disk")
        name = data[ROOT_HEADER.size : start].decode()
        return cls(
            virtual_size=virtual_size,
            chunk_size=chunk_size,
            domain=name,
            pages=pages,
            unfinished=bool(flags & ROOT_UNFINISHED),
        )


# ---------------------------------------------------------------------------------------------- common
def sealed(layout: struct.Struct, *fields: object) -> bytes:
    """Pack a footer whose last field is the XXH3-128 of the bytes before it."""
    body = layout.pack(*fields, bytes(SUM_SIZE))[:-SUM_SIZE]
    return body + xxh3(body)


def unsealed(layout: struct.Struct, data: bytes, what: str) -> tuple[bytes, int, int, int, int, bytes]:
    """Unpack a footer after checking its checksum; raises Corrupt."""
    if len(data) != layout.size or xxh3(data[:-SUM_SIZE]) != data[-SUM_SIZE:]:
        raise Corrupt(f"{what} is damaged or cut short: its footer does not match its checksum")
    magic, version, flags, first, second, total, _sum = layout.unpack(data)
    return magic, version, flags, first, second, total


def check_kind(magic: bytes, expected: bytes, version: int, what: str) -> None:
    """Raise Corrupt for another kind of file, StoreIncompatible for another version."""
    if magic != expected:
        raise Corrupt(f"{what} does not start with {expected!r}: another file lies in its place")
    if version != VERSION:
        raise StoreIncompatible(f"{what} has format version {version}, this program reads version {VERSION}")


def round_up(size: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least `size`."""
    return -(-size // multiple) * multiple
