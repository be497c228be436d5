"""The bytes of the store's files. Changing a golden value here makes every existing store unreadable."""

from __future__ import annotations

import struct
from array import array

import pytest

from dataplane.engine.run_builder import RunBuilder, build_filter
from dataplane.engine.scan import blake3
from dataplane.errors import Corrupt, StoreIncompatible
from dataplane.store import format as fmt

SECRET = bytes(range(32))
NONCE = bytes(range(16))
IDS = b"".join(blake3(bytes([n]), SECRET) for n in range(40))


def small_pack() -> tuple[bytes, bytes]:
    """Return (name, file) of a pack with three chunks."""
    chunks = [b"a" * 10, b"b" * 4096, b"c" * 7]
    header = fmt.pack_header(NONCE, SECRET)
    stored = array("I", map(len, chunks)).tobytes()
    table = fmt.pack_table(IDS[:96], stored, array("I", [4096] * 3).tobytes())
    offset = len(header) + sum(map(len, chunks))
    return fmt.pack_name(header, table), header + b"".join(chunks) + table + fmt.pack_footer(table, offset)


def small_run() -> bytes:
    """Return a run over two packs with forty entries."""
    builder = RunBuilder()
    lengths = memoryview(array("I", range(100, 120)))
    plain = memoryview(array("I", [4096] * 20))
    builder.add(0, 32, IDS[: 20 * 32], lengths, plain)
    builder.add(1, 32, IDS[20 * 32 :], lengths, plain)
    entries = builder.finish()
    layout = fmt.RunLayout.plan(2, len(entries) // fmt.RUN_ENTRY_SIZE)
    filter_bytes = bytes(build_filter(entries, layout.filter_blocks))
    return fmt.build_run(layout, [b"\x11" * 32, b"\x22" * 32], filter_bytes, entries)


def small_root() -> bytes:
    return fmt.Root(
        virtual_size=300 << 20, chunk_size=65536, domain="folder", pages=((0, IDS[:32]), (4, IDS[32:64]))
    ).to_bytes()


def test_golden_pack_unchanged() -> None:
    name, pack = small_pack()
    assert blake3(pack).hex() == "6421cea0e14a22219583da6d1d21637eb7f909d7e56e0c5fa6630ec8802fa92d"
    assert name.hex() == "fa0936595ab21cbf737ca16023f83c739f2173e94c7ab3cc67156b89f5aab703"


def test_golden_run_unchanged() -> None:
    assert blake3(small_run()).hex() == "aefec5fff8bdef490c4ccce264a9bed864fd40d9eee3163180962cb992795551"


def test_golden_root_unchanged() -> None:
    assert blake3(small_root()).hex() == "0a4accdb3f84bbbecc3d0ac23561ecbb6a66b4819968950f02ea49a9aec78929"


def test_golden_keys_unchanged() -> None:
    assert fmt.domain_key(SECRET, "").hex() == "71758de63fd3b501e65ffaf643d5812c27ca16d94a3633dfd69506b1386eff35"
    assert fmt.domain_key(SECRET, "folder").hex() == "6b739da8c3f3a97d638367cbf5b1e440f55ba0f650bd5f2a63e111a4492c2d3e"
    assert fmt.secret_check(SECRET) == "c5a95aab24e5b57070e7309971e329f3"


def test_run_entry_has_the_documented_layout() -> None:
    builder = RunBuilder()
    builder.add(7, 1000, IDS[:32], memoryview(array("I", [55])), memoryview(array("I", [4096])))
    assert builder.finish() == struct.pack("<32sIIII", IDS[:32], 7, 1000, 55, 4096)


def test_pack_round_trip() -> None:
    _, pack = small_pack()
    offset, length, table_sum = fmt.parse_pack_footer(pack[-64:], len(pack), "pack")
    table = fmt.parse_pack_table(pack[offset : offset + length], table_sum, offset, "pack")
    assert (table.ids, list(table.stored_lengths), list(table.plain_lengths)) == (IDS[:96], [10, 4096, 7], [4096] * 3)


def test_root_round_trip() -> None:
    root = fmt.Root.from_bytes(small_root(), "root")
    assert root.to_bytes() == small_root()
    assert (root.virtual_size, root.chunk_size, root.domain, len(root.pages)) == (300 << 20, 65536, "folder", 2)


@pytest.mark.parametrize("at", range(64))
def test_pack_footer_any_flipped_byte_is_noticed(at: int) -> None:
    _, pack = small_pack()
    footer = bytearray(pack[-64:])
    footer[at] ^= 0x40
    with pytest.raises(Corrupt):
        fmt.parse_pack_footer(bytes(footer), len(pack), "pack")


def test_pack_table_any_flipped_byte_is_noticed() -> None:
    _, pack = small_pack()
    offset, length, table_sum = fmt.parse_pack_footer(pack[-64:], len(pack), "pack")
    for at in range(length):
        table = bytearray(pack[offset : offset + length])
        table[at] ^= 1
        with pytest.raises(Corrupt):
            fmt.parse_pack_table(bytes(table), table_sum, offset, "pack")


def test_run_cut_anywhere_is_noticed() -> None:
    run = small_run()
    for length in range(0, len(run), 13):
        with pytest.raises(Corrupt):
            fmt.parse_run(memoryview(run[:length]), "run")


def test_run_any_flipped_byte_of_what_opening_reads_is_noticed() -> None:
    run = small_run()
    for at in range(len(run)):
        damaged = bytearray(run)
        damaged[at] ^= 1
        # Padding between sections is guarded too; this run is one block, so opening checks all of it.
        if (
            bytes(damaged[: fmt.RunLayout.plan(2, 40).covered]) == run[: fmt.RunLayout.plan(2, 40).covered]
            and at < len(run) - 64 - 16
        ):
            continue
        with pytest.raises((Corrupt, StoreIncompatible)):
            fmt.parse_run(memoryview(damaged), "run")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"version": 2}, StoreIncompatible),
        ({"format": "other"}, StoreIncompatible),
        ({"chunk_size": 4096}, Corrupt),
        ({"extra": 1}, Corrupt),
    ],
)
def test_store_header_changed_field_is_refused(change: dict[str, object], error: type[Exception]) -> None:
    import json

    header = fmt.StoreHeader(store_id="ab", chunk_size=65536, codec="zstd:1", secret_check="cd")
    assert fmt.StoreHeader.from_json(header.to_json()) == header
    with pytest.raises(error):
        fmt.StoreHeader.from_json(json.dumps({**json.loads(header.to_json()), **change}))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "\0", '{"checksum": 1}'])
def test_store_header_garbage_is_corrupt(text: str) -> None:
    with pytest.raises(Corrupt):
        fmt.StoreHeader.from_json(text)
