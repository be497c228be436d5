"""Counting beside dictionaries."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.counts import count_chunks, ids_between, sort_distinct
from dataplane.engine.run_builder import RunBuilder
from dataplane.engine.runs import Run, RunCorrupt
from tests.native.test_run_merge import COUNT, counts_of
from tests.native.test_runs import file_of, id_of, ids_of, open_file, pack_of, run_of

IDS = st.lists(st.integers(0, 60), max_size=40)


@given(numbers=IDS, zeros=st.integers(0, 3), split=st.integers(0, 255))
def test_pages_are_parted_by_first_byte(numbers: list[int], zeros: int, split: int) -> None:
    page = b"".join(ids_of(numbers)) + bytes(32 * zeros)
    below, above = ids_between(page, 0, split), ids_between(page, split + 1, 255)
    assert below == b"".join(id for id in ids_of(numbers) if id[0] <= split)
    assert above == b"".join(id for id in ids_of(numbers) if id[0] > split)


@given(numbers=IDS)
def test_sort_distinct_sorts(numbers: list[int]) -> None:
    ids = bytearray(b"".join(ids_of(numbers)))
    kept = sort_distinct(ids)
    assert ids[: 32 * kept] == b"".join(sorted(set(ids_of(numbers))))


@given(roots=st.lists(st.sets(st.integers(0, 25)), min_size=1, max_size=6), which=st.integers(0, 5), coming=IDS)
def test_changes_match_dicts(roots: list[set[int]], which: int, coming: list[int]) -> None:
    """Roots 1, 2, … use chunks; one of them leaves, another comes."""
    sizes = {n: 100 + n for n in range(61)}
    index, _ = run_of(ids_of(range(61)))
    stored = {n: 1 + id_of(n)[0] * 17 for n in range(61)}
    files = [counts_of({id_of(n): (1, sizes[n], number) for n in used}) for number, used in enumerate(roots, 1)]
    users = Counter(n for used in roots for n in used)

    leaver = which % len(roots) + 1
    used = roots[leaver - 1]
    change = count_chunks(b"".join(sorted(ids_of(list(used)))), files, [index], leaver, True)
    rows = [COUNT.unpack_from(change.entries, at) for at in range(0, len(change.entries), COUNT.size)]
    assert rows == sorted((id_of(n), -1, sizes[n], (1 << 64) - leaver) for n in used)
    alone = [n for n in used if users[n] == 1]
    assert (change.used_chunks, change.used_size) == (len(alone), sum(sizes[n] for n in alone))
    gains: dict[int, tuple[int, int]] = {}
    for n in used:
        others = [number for number, theirs in enumerate(roots, 1) if n in theirs and number != leaver]
        if len(others) == 1:
            chunks, size = gains.get(others[0], (0, 0))
            gains[others[0]] = chunks + 1, size + sizes[n]
    assert change.others == gains

    fresh = sorted(set(coming))
    change = count_chunks(b"".join(sorted(ids_of(fresh))), files, [index], 77, False)
    rows = [COUNT.unpack_from(change.entries, at) for at in range(0, len(change.entries), COUNT.size)]
    known = {n: sizes[n] if users[n] else stored[n] for n in fresh}
    assert rows == sorted((id_of(n), 1, known[n], 77) for n in fresh)
    alone = [n for n in fresh if users[n] == 0]
    assert (change.used_chunks, change.used_size) == (len(alone), sum(known[n] for n in alone))
    losses: dict[int, tuple[int, int]] = {}
    for n in fresh:
        if users[n] == 1:
            (owner,) = [number for number, theirs in enumerate(roots, 1) if n in theirs]
            chunks, size = losses.get(owner, (0, 0))
            losses[owner] = chunks + 1, size + sizes[n]
    assert change.others == losses
    assert change.missing == []


def test_unknown_chunks_are_named() -> None:
    index, _ = run_of(ids_of([1]))
    ids = sorted(ids_of([1, 2, 3]))
    change = count_chunks(b"".join(ids), [], [index], 1, False)
    assert sorted(change.missing) == sorted(ids_of([2, 3]))


def test_leaving_what_nobody_uses_is_refused() -> None:
    with pytest.raises(ValueError, match="used by 0 roots"):
        count_chunks(id_of(1), [], [], 1, True)


def test_damage_counts_through_both_lists() -> None:
    builder = RunBuilder()
    pack_of(builder, 0, ids_of(range(3000)), {})
    data = bytearray(file_of(builder, 1))
    for at in range(0, len(data) - 1000, 65_536):
        data[at + 700] ^= 1
    damaged: Run = open_file_unchecked(data)
    for counts, index, place in (([damaged], [], 0), ([counts_of({id_of(1): (1, 1, 1)})], [damaged], 1)):
        with pytest.raises(RunCorrupt) as caught:
            count_chunks(b"".join(sorted(ids_of(range(5, 50)))), counts, index, 1, False)
        assert caught.value.run == place


def open_file_unchecked(data: bytearray) -> Run:
    """Open a run whose blocks are damaged, the first one too, as if its header had been checked before."""
    good = bytearray(data)
    good[700] ^= 1
    run = open_file(good)
    good[700] ^= 1
    return run


@pytest.mark.parametrize("size", [1, 31, 33])
def test_ragged_ids_are_refused(size: int) -> None:
    for call in (
        lambda: ids_between(bytes(size), 0, 255),
        lambda: sort_distinct(bytearray(size)),
        lambda: count_chunks(bytes(size), [], [], 1, False),
    ):
        with pytest.raises(ValueError, match="whole number of ids"):
            call()
