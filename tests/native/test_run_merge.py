"""Merged runs and count files beside dictionaries."""

from __future__ import annotations

import random
import struct
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.run_builder import RunBuilder, build_filter
from dataplane.engine.run_merge import RunMerge
from dataplane.engine.runs import Run, RunCorrupt
from dataplane.store import format as fmt
from tests.native.test_runs import Entries, file_of, id_of, ids_of, open_file, pack_of, run_of
from tests.oracles import runs as oracle

LEFT_OUT = 0xFFFFFFFF
COUNT = struct.Struct("<32siIQ")


def taken(merge: RunMerge, piece: int) -> bytes:
    return b"".join(iter(lambda: merge.take(piece), b""))


def places(entries: bytes) -> list[tuple[bytes, oracle.Place]]:
    rows = [entries[at : at + 48] for at in range(0, len(entries), 48)]
    return [(row[:32], (*memoryview(row)[32:].cast("I"),)) for row in rows]  # type: ignore[misc]


@given(
    packs_of_runs=st.lists(st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=3), max_size=5),
    seed=st.integers(0, 1000),
    piece=st.integers(1, 9),
)
def test_merge_matches_dicts(packs_of_runs: list[list[list[int]]], seed: int, piece: int) -> None:
    chance = random.Random(seed)
    runs, known = [], []
    for packs in packs_of_runs:
        builder, entries, seen = RunBuilder(), Entries(), set[int]()
        for pack, wanted in enumerate(packs):
            fresh = [number for number in dict.fromkeys(wanted) if number not in seen]
            seen.update(fresh)
            pack_of(builder, pack, ids_of(fresh), entries)
        runs.append(open_file(file_of(builder, len(packs))))
        known.append(entries)
    numbers: list[list[int | None]] = [[chance.choice([None, *range(6)]) for _ in packs] for packs in packs_of_runs]
    spare_from = chance.randrange(7)
    renumbered = [array("I", [LEFT_OUT if n is None else n for n in names]) for names in numbers]
    expected = sorted(oracle.merge(known, numbers, spare_from).items())
    assert places(taken(RunMerge(runs, list(renumbered), spare_from), piece)) == expected
    assert RunMerge(runs, list(renumbered), spare_from).count() == len(expected)


def counts_of(counts: dict[bytes, tuple[int, int, int]]) -> Run:
    """Return a count file; `counts` has (roots, size, owners) by id."""
    entries = b"".join(COUNT.pack(id, *values) for id, values in sorted(counts.items()))
    layout = fmt.RunLayout.plan(0, len(counts))
    return open_file(fmt.build_run(layout, [], bytes(build_filter(entries, layout.filter_blocks)), entries))


COUNTS = st.dictionaries(st.integers(0, 20), st.sampled_from([(1, 7), (-1, (1 << 64) - 7), (1, 9), (2, 0)]))


@given(files=st.lists(COUNTS, max_size=5), piece=st.integers(1, 9))
def test_sums_match_dicts(files: list[dict[int, tuple[int, int]]], piece: int) -> None:
    known = [{id_of(n): (roots, n + 1, owners) for n, (roots, owners) in file.items()} for file in files]
    made = taken(RunMerge([counts_of(file) for file in known]), piece)
    rows = [COUNT.unpack_from(made, at) for at in range(0, len(made), COUNT.size)]
    assert [(id, tuple(rest)) for id, *rest in rows] == sorted(oracle.add_up(known).items())


def test_many_runs_merge() -> None:
    runs, known = zip(*[run_of(ids_of(range(50 * n, 50 * n + 100))) for n in range(100)], strict=True)
    names: list[list[int | None]] = [[n] for n in range(100)]
    merge = RunMerge(list(runs), [array("I", [n]) for n in range(100)])
    assert places(taken(merge, 1000)) == sorted(oracle.merge(known, names, 1000).items())


def test_damaged_entries_are_found_before_anything_is_merged() -> None:
    builder, entries = RunBuilder(), Entries()
    pack_of(builder, 0, ids_of(range(5000)), entries)
    data = bytearray(file_of(builder, 1))
    data[150_000] ^= 1
    with pytest.raises(RunCorrupt) as caught:
        RunMerge([run_of(ids_of([1]))[0], open_file(data)], [array("I", [0])] * 2)
    assert (caught.value.run, caught.value.offset) == (1, 131_072)


def test_entries_out_of_order_are_refused() -> None:
    ids = sorted(ids_of(range(4)))
    entries = b"".join(COUNT.pack(ids[place], 1, 1, 1) for place in (0, 2, 1, 3))
    layout = fmt.RunLayout.plan(0, 4)
    run = open_file(fmt.build_run(layout, [], bytes(build_filter(entries, layout.filter_blocks)), entries))
    with pytest.raises(RunCorrupt) as caught:
        RunMerge([run]).count()
    assert caught.value.offset == layout.entries_offset + 2 * 48


def test_numbers_that_do_not_fit_are_refused() -> None:
    run, _ = run_of(ids_of(range(3)), packs=2)
    for numbers in ([], [array("I", [0])], [array("I", [0, 1, 2])], [array("I", [0, 1])] * 2):
        with pytest.raises(ValueError, match="do not fit"):
            RunMerge([run], list(numbers))
    assert RunMerge([], []).take(5) == b""
