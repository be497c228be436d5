"""Run files beside a dict."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.codec import Codec
from dataplane.engine.run_builder import RunBuilder, build_filter
from dataplane.engine.runs import Run, RunCorrupt, RunSet
from dataplane.engine.scan import ChunkState, blake3
from dataplane.engine.table import DigestTable
from dataplane.errors import Corrupt
from dataplane.extent import Extent, ExtentKind, unpack_batch
from dataplane.store import format as fmt
from tests.native.shapes import uint32s

Place = tuple[int, int, int, int]  # pack, offset, stored length, plain length
Entries = dict[bytes, Place]


def id_of(number: int) -> bytes:
    return random.Random(number).randbytes(32)


def ids_of(numbers: Sequence[int]) -> list[bytes]:
    return [id_of(number) for number in numbers]


def pack_of(builder: RunBuilder, pack: int, ids: Sequence[bytes], entries: Entries, offset: int = 32) -> None:
    """Add a pack to the builder, and to the dict what it should say; the first of equal ids stays."""
    stored = [1 + id[0] * 17 for id in ids]
    plain = [max(length, 4096) for length in stored]
    builder.add(pack, offset, b"".join(ids), uint32s(stored), uint32s(plain))
    for id, stored_length, plain_length in zip(ids, stored, plain, strict=True):
        entries.setdefault(id, (pack, offset, stored_length, plain_length))
        offset += stored_length


def file_of(builder: RunBuilder, pack_count: int) -> bytes:
    entries = builder.finish()
    layout = fmt.RunLayout.plan(pack_count, len(entries) // fmt.RUN_ENTRY_SIZE)
    filter_bytes = bytes(build_filter(entries, layout.filter_blocks))
    return fmt.build_run(layout, [id_of(10_000 + number) for number in range(pack_count)], filter_bytes, entries)


def open_file(data: bytes | bytearray) -> Run:
    layout, _ = fmt.parse_run(memoryview(data), "the run")
    return Run(
        data,
        filter_offset=layout.filter_offset,
        filter_blocks=layout.filter_blocks,
        entries_offset=layout.entries_offset,
        entry_count=layout.entry_count,
        sums_offset=layout.sums_offset,
        covered=layout.covered,
        pack_count=layout.pack_count,
    )


def run_of(ids: Sequence[bytes], packs: int = 1) -> tuple[Run, Entries]:
    """Return a run of `ids`, dealt out to so many packs, and the dict that says the same."""
    builder, entries = RunBuilder(), Entries()
    for pack in range(packs):
        pack_of(builder, pack, ids[pack::packs], entries)
    return open_file(file_of(builder, packs)), entries


# ------------------------------------------------------------------------------------------ building
@given(numbers=st.lists(st.integers(0, 50), max_size=80), packs=st.integers(1, 4))
def test_finish_sorts_and_keeps_one_of_each(numbers: list[int], packs: int) -> None:
    builder, places = RunBuilder(), dict[bytes, set[Place]]()
    for pack in range(packs):
        ids, entries = ids_of(numbers[pack::packs]), Entries()
        pack_of(builder, pack, ids, entries)
        offset = 32
        for id in ids:  # which of equal ids stays is left open
            places.setdefault(id, set()).add((pack, offset, 1 + id[0] * 17, max(1 + id[0] * 17, 4096)))
            offset += 1 + id[0] * 17
    assert len(builder) == len(numbers)
    made = builder.finish()
    rows = [made[at : at + 48] for at in range(0, len(made), 48)]
    assert [row[:32] for row in rows] == sorted(places)
    for row in rows:
        assert tuple(memoryview(row)[32:].cast("I")) in places[row[:32]]
    assert len(builder) == 0
    assert builder.finish() == b""


def test_builder_keeps_many() -> None:
    count = 20_000
    run, entries = run_of(ids_of(range(count)), packs=5)
    assert len(run) == len(entries) == count
    assert run.pack_count == 5
    runs = RunSet([run])
    assert all(runs.find(id) == place for id, place in entries.items())


@pytest.mark.parametrize(("ids", "stored", "plain"), [(31, 1, 1), (64, 1, 1), (32, 1, 2), (32, 2, 1), (0, 1, 1)])
def test_columns_of_other_length_are_refused(ids: int, stored: int, plain: int) -> None:
    with pytest.raises(ValueError, match="differ in length"):
        RunBuilder().add(0, 0, bytes(ids), uint32s([1] * stored), uint32s([1] * plain))


@pytest.mark.parametrize("offset", [(1 << 32) - 10, 1 << 32, (1 << 64) - 5])
def test_chunk_past_four_gib_is_refused_and_forgotten(offset: int) -> None:
    builder = RunBuilder()
    with pytest.raises(ValueError, match="chunk 1"):
        builder.add(0, (1 << 32) - 10, bytes(64), uint32s([5, 6]), uint32s([5, 6]))
    with pytest.raises(ValueError, match="chunk 0"):
        builder.add(0, offset, bytes(32), uint32s([11]), uint32s([11]))
    assert len(builder) == 0
    builder.add(0, (1 << 32) - 12, bytes(64), uint32s([5, 6]), uint32s([5, 6]))
    assert len(builder) == 2


# ------------------------------------------------------------------------------------------ the filter
@given(numbers=st.lists(st.integers(0, 1 << 30), unique=True, max_size=200), blocks=st.integers(1, 20))
def test_filter_has_no_false_negative(numbers: list[int], blocks: int) -> None:
    entries = b"".join(sorted(id + bytes(16) for id in ids_of(numbers)))
    made = build_filter(entries, blocks)
    assert len(made) == 32 * blocks
    assert all(in_filter(made, id) for id in ids_of(numbers))


def in_filter(made: bytes | bytearray, id: bytes) -> bool:
    """The definition: the block is the second word scaled to their count, the bits are five of the third word each."""
    block = int.from_bytes(id[8:16], "little") * (len(made) // 32) >> 64
    third = int.from_bytes(id[16:24], "little")
    words = memoryview(made)[32 * block : 32 * block + 32].cast("I")
    return all(words[word] >> ((third >> (5 * word)) & 31) & 1 for word in range(8))


def test_filter_sorts_out_most_strangers() -> None:
    entries = b"".join(id + bytes(16) for id in sorted(ids_of(range(20_000))))
    made = build_filter(entries, 1000)
    false_hits = sum(in_filter(made, id_of(number)) for number in range(20_000, 40_000))
    assert false_hits < 20_000 / 100


@pytest.mark.parametrize(("size", "blocks"), [(47, 1), (49, 1), (48, 0), (48, -1), (0, -1)])
def test_filter_wrong_shapes_are_refused(size: int, blocks: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        build_filter(bytes(size), blocks)


# ------------------------------------------------------------------------------------------ looking up
@given(
    held=st.lists(st.lists(st.integers(0, 60), unique=True, max_size=40), max_size=4),
    asked=st.lists(st.tuples(st.integers(0, 80), st.sampled_from(ChunkState)), max_size=40),
)
def test_lookups_in_several_runs_match_dict(held: list[list[int]], asked: list[tuple[int, ChunkState]]) -> None:
    runs, known, base = [], Entries(), 0
    for numbers in held:
        run, entries = run_of(ids_of(numbers), packs=2)
        runs.append(run)
        for id, (pack, *rest) in entries.items():
            known.setdefault(id, (base + pack, rest[0], rest[1], rest[2]))
        base += 2
    together = RunSet(runs)
    assert len(together) == sum(map(len, held))
    ids = ids_of([number for number, _ in asked])
    assert [together.find(id) for id in ids] == [known.get(id) for id in ids]
    states = bytearray(state for _, state in asked)
    hits = [id for id, state in zip(ids, states, strict=True) if state == ChunkState.NEW and id in known]
    expected = [
        ChunkState.STORED if state == ChunkState.NEW and id in known else state
        for id, state in zip(ids, states, strict=True)
    ]
    assert together.mark_stored(b"".join(ids), states) == (len(hits), sum(known[id][2] for id in hits))
    assert list(states) == expected


def test_clustered_ids_are_found() -> None:
    """Interpolation expects uniform ids; it must stay right, and quick, where they are anything else."""
    tails = [number.to_bytes(24, "big") for number in range(3000)]
    ids = [b"\x00" * 8 + tail for tail in tails] + [b"\xff" * 8 + tail for tail in tails] + ids_of(range(10))
    run, entries = run_of(ids)
    runs = RunSet([run])
    assert all(runs.find(id) == place for id, place in entries.items())
    assert runs.find(b"\x00" * 8 + b"\xff" * 24) is None
    assert runs.find(b"\xff" * 32) is None
    assert runs.find(b"\x00" * 7 + b"\x01" + bytes(24)) is None


def test_no_runs_hold_nothing() -> None:
    empty, _ = run_of([])
    for runs in (RunSet([]), RunSet([empty])):
        states = bytearray([ChunkState.NEW])
        assert len(runs) == 0
        assert runs.find(bytes(32)) is None
        assert runs.mark_stored(bytes(32), states) == (0, 0)
        assert states == bytes([ChunkState.NEW])


def test_lookups_of_other_shape_are_refused() -> None:
    runs = RunSet([run_of(ids_of(range(3)))[0]])
    for size in (0, 31, 33):
        with pytest.raises(ValueError, match="32 bytes"):
            runs.find(bytes(size))
        with pytest.raises(ValueError, match="32 bytes"):
            runs.mark_stored(bytes(size), bytearray(1))
    with pytest.raises(TypeError):
        RunSet([b"not a run"])  # type: ignore[list-item]


# ------------------------------------------------------------------------------------------ damage
def answers(data: bytes | bytearray, ids: Sequence[bytes]) -> list[Place | None]:
    runs = RunSet([open_file(data)])
    return [runs.find(id) for id in ids]


def test_damage_of_any_byte_is_noticed_or_harmless() -> None:
    """A wrong answer would store a chunk twice, or read another one."""
    builder, entries = RunBuilder(), Entries()
    pack_of(builder, 0, ids_of(range(30)), entries)
    data = bytearray(file_of(builder, 1))
    asked = ids_of(range(60))
    right = [entries.get(id) for id in asked]
    assert answers(data, asked) == right
    noticed = 0
    for place in range(len(data)):
        data[place] ^= 1 << (place % 8)
        try:
            assert answers(data, asked) == right, place
        except (RunCorrupt, Corrupt):
            noticed += 1
        data[place] ^= 1 << (place % 8)
    assert noticed > len(data) - 64, "all but the padding before the table of checksums"


def test_damage_names_run_and_block() -> None:
    good, _ = run_of(ids_of(range(100)))
    builder, entries = RunBuilder(), Entries()
    pack_of(builder, 0, ids_of(range(5000)), entries)
    data = bytearray(file_of(builder, 1))
    bad = open_file(data)
    data[150_000] ^= 1
    runs = RunSet([good, bad])
    asked = ids_of(range(100, 5000))
    with pytest.raises(RunCorrupt) as caught:
        runs.mark_stored(b"".join(asked), bytearray([ChunkState.NEW]) * len(asked))
    assert (caught.value.run, caught.value.offset) == (1, 131072)
    with pytest.raises(RunCorrupt):
        runs.locate(b"".join(asked), 0, 4096, 4096 * len(asked))
    with pytest.raises(RunCorrupt):
        [runs.find(id) for id in asked]


def test_block_is_checked_when_first_touched() -> None:
    """What nobody asks for is not read: opening a store does not read its whole index."""
    builder, entries = RunBuilder(), Entries()
    pack_of(builder, 0, ids_of(range(5000)), entries)
    data = bytearray(file_of(builder, 1))
    data[200_000] ^= 1
    runs = RunSet([open_file(data)])
    lowest = min(entries)
    assert runs.find(lowest) == entries[lowest]


def run_with(changes: dict[str, int]) -> Run:
    """Open 272 bytes as a run of one entry, with some of the numbers of its header changed."""
    return Run(
        bytes(272),
        filter_offset=changes.get("filter_offset", 128),
        filter_blocks=changes.get("filter_blocks", 1),
        entries_offset=changes.get("entries_offset", 192),
        entry_count=changes.get("entry_count", 1),
        sums_offset=changes.get("sums_offset", 256),
        covered=changes.get("covered", 240),
        pack_count=1,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"covered": 273},
        {"sums_offset": 257},
        {"sums_offset": 1 << 63},
        {"entries_offset": 193},
        {"entries_offset": (1 << 64) - 1},
        {"entry_count": 2},
        {"entry_count": 1 << 62},
        {"filter_blocks": 0},
        {"filter_blocks": 4},
        {"filter_blocks": 1 << 60},
        {"filter_offset": 209},
        {"filter_offset": (1 << 64) - 16},
    ],
)
def test_sections_that_leave_the_file_are_refused(wrong: dict[str, int]) -> None:
    assert len(run_with({})) == 1
    with pytest.raises(ValueError, match="leave its file"):
        run_with(wrong)


# ------------------------------------------------------------------------------------------ locate
def extents_of(ids: Sequence[bytes], known: Entries, offset: int, chunk_size: int, end: int) -> list[Extent]:
    """The rows that ``locate`` should give."""
    rows: list[Extent] = []
    for id in ids:
        length = min(chunk_size, end - offset)
        if id == bytes(32) and rows and rows[-1].kind == ExtentKind.HOLE:
            rows[-1] = rows[-1]._replace(length=rows[-1].length + length)
        elif id == bytes(32):
            rows.append(Extent(offset, length, ExtentKind.HOLE))
        else:
            pack, at, stored, _ = known[id]
            raw = Extent(offset, length, ExtentKind.DATA, Codec.RAW, pack, at, length)
            packed = Extent(offset, length, ExtentKind.DATA, Codec.ZSTD, pack, at, stored, 0, chunk_size)
            rows.append(raw if stored == chunk_size else packed)
        offset += chunk_size
    return rows


def chunk_runs() -> tuple[RunSet, Entries]:
    """Two runs of two packs with chunks of 4096 bytes, every fourth of them stored as it is."""
    runs, known = [], Entries()
    for number in range(2):
        builder = RunBuilder()
        for pack in range(2):
            ids = ids_of(range(100 * number + 10 * pack, 100 * number + 10 * pack + 10))
            stored = [4096 if place % 4 == 0 else 100 + place for place in range(10)]
            builder.add(pack, 64, b"".join(ids), uint32s(stored), uint32s([4096] * 10))
            for place, id in enumerate(ids):
                known[id] = (2 * number + pack, 64 + sum(stored[:place]), stored[place], 4096)
        runs.append(open_file(file_of(builder, 2)))
    return RunSet(runs), known


@given(
    picks=st.lists(st.one_of(st.none(), st.integers(0, 39)), min_size=1, max_size=60),
    start=st.integers(0, 5),
    clip=st.integers(0, 4095),
)
def test_locate_matches_dict(picks: list[int | None], start: int, clip: int) -> None:
    runs, known = chunk_runs()
    ids = [bytes(32) if pick is None else sorted(known)[pick] for pick in picks]
    offset, end = 4096 * start, 4096 * (start + len(ids)) - clip
    batch = runs.locate(b"".join(ids), offset, 4096, end)
    assert list(unpack_batch(batch)) == extents_of(ids, known, offset, 4096, end)


def test_locate_lost_chunk_is_a_key_error_with_its_index() -> None:
    runs, known = chunk_runs()
    with pytest.raises(KeyError) as caught:
        runs.locate(min(known) + bytes(32) + id_of(1000), 0, 4096, 3 * 4096)
    assert caught.value.args == (2,)


@pytest.mark.parametrize(
    ("ids", "offset", "chunk_size", "end"),
    [
        (0, 0, 4096, 4096),
        (33, 0, 4096, 4096),
        (64, 0, 4096, 4096),
        (32, 4096, 4096, 4096),
        (32, 8192, 4096, 4096),
        (32, -1, 4096, 4096),
        (32, 0, 0, 4096),
        (32, 0, -4096, 4096),
        (96, 0, 1 << 62, (1 << 63) - 1),  # the product leaves 64 bits
    ],
)
def test_locate_off_the_disk_is_refused(ids: int, offset: int, chunk_size: int, end: int) -> None:
    with pytest.raises(ValueError, match="do not lie on a disk"):
        chunk_runs()[0].locate(bytes(ids), offset, chunk_size, end)


def test_locate_chunk_of_other_size_is_refused() -> None:
    runs, known = chunk_runs()
    with pytest.raises(ValueError, match="has 4096 bytes, not 8192"):
        runs.locate(min(known), 0, 8192, 8192)


def run_over_two_packs(dead: bytes | None) -> Run:
    """Return a run with ids 0 to 9 in pack 0 and 10 to 14 in pack 1."""
    builder = RunBuilder()
    for pack, numbers in ((0, range(10)), (1, range(10, 15))):
        ids = b"".join(blake3(bytes([n])) for n in numbers)
        lengths = memoryview(array("I", [100] * len(numbers)))
        builder.add(pack, 64, ids, lengths, memoryview(array("I", [4096] * len(numbers))))
    entries = builder.finish()
    layout = fmt.RunLayout.plan(2, len(entries) // 48)
    data = fmt.build_run(layout, [b"\1" * 32, b"\2" * 32], bytes(build_filter(entries, layout.filter_blocks)), entries)
    return Run(
        memoryview(data),
        filter_offset=layout.filter_offset,
        filter_blocks=layout.filter_blocks,
        entries_offset=layout.entries_offset,
        entry_count=layout.entry_count,
        sums_offset=layout.sums_offset,
        covered=layout.covered,
        pack_count=2,
        dead=dead,
    )


def test_entries_of_dead_packs_are_not_found() -> None:
    runs = RunSet([run_over_two_packs(b"\1\0")])
    assert [runs.find(blake3(bytes([n]))) is None for n in range(15)] == [True] * 10 + [False] * 5
    with pytest.raises(ValueError, match="flags"):
        run_over_two_packs(b"\1")


def test_resolve_flags_wanted_ids_that_end_in_the_pack() -> None:
    """The living copy is searched first, the dead one is the last resort: packs 0, 1 and again 2, 3."""
    runs = RunSet([run_over_two_packs(b"\1\0"), run_over_two_packs(None)])
    wanted = DigestTable(32)
    for n in (0, 3, 12, 200):
        wanted.claim(blake3(bytes([n])), bytearray([ChunkState.DATA]))
    ids = b"".join(blake3(bytes([n])) for n in (0, 1, 3, 12, 200))
    assert runs.resolve(ids, wanted, 2) == bytes([1, 0, 1, 0, 0])
    assert runs.resolve(ids, wanted, 1) == bytes([0, 0, 0, 1, 0])
    assert runs.resolve(ids, wanted, 0) == bytes(runs.resolve(ids, wanted, 3)) == bytes(5)
    with pytest.raises(ValueError, match="32 bytes"):
        runs.resolve(ids, DigestTable(16), 0)
