"""The map of a layer against a list."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.disks.block_map import PAGE_BLOCKS, BlockMap, BlockState

BLOCKS = 3 * PAGE_BLOCKS
PLACES = st.one_of(st.integers(0, BLOCKS - 1), st.sampled_from([0, PAGE_BLOCKS - 1, PAGE_BLOCKS, 2 * PAGE_BLOCKS]))
LENGTHS = st.one_of(st.integers(1, 40), st.sampled_from([PAGE_BLOCKS, PAGE_BLOCKS + 1, 2 * PAGE_BLOCKS, BLOCKS]))
CHANGES = st.lists(st.tuples(PLACES, LENGTHS, st.sampled_from(BlockState)), max_size=12)


def changed(changes: list[tuple[int, int, BlockState]]) -> tuple[BlockMap, list[BlockState]]:
    blocks, model = BlockMap(), [BlockState.BELOW] * BLOCKS
    for first, count, state in changes:
        count = min(count, BLOCKS - first)
        blocks.set(first, count, state)
        model[first : first + count] = [state] * count
    return blocks, model


@settings(max_examples=40, deadline=None)
@given(changes=CHANGES, first=PLACES, count=LENGTHS)
def test_map_is_a_list(changes: list[tuple[int, int, BlockState]], first: int, count: int) -> None:
    blocks, model = changed(changes)
    count = min(count, BLOCKS - first)
    at, runs = first, []
    for state, group in groupby(model[first : first + count]):
        length = len(list(group))
        runs.append((at, length, state))
        at += length
    assert [tuple(run) for run in blocks.runs(first, count)] == runs
    assert blocks.state(first) == model[first]
    assert blocks.count(BlockState.WRITTEN) == model.count(BlockState.WRITTEN)
    assert blocks.count(BlockState.ZERO) == model.count(BlockState.ZERO)
    assert blocks.is_empty() == (set(model) == {BlockState.BELOW})
    assert blocks.has_any(first, count) == any(model[first : first + count])


@settings(max_examples=40, deadline=None)
@given(lower=CHANGES, upper=CHANGES)
def test_maps_add_up(lower: list[tuple[int, int, BlockState]], upper: list[tuple[int, int, BlockState]]) -> None:
    blocks, below = changed(lower)
    added, above = changed(upper)
    blocks.add(added)
    expected = [top or bottom for top, bottom in zip(above, below, strict=True)]
    assert [state for run in blocks.runs(0, BLOCKS) for state in [run.state] * run.length] == expected


@settings(max_examples=40, deadline=None)
@given(changes=CHANGES)
def test_pages_make_the_map_again(changes: list[tuple[int, int, BlockState]]) -> None:
    blocks, _ = changed(changes)
    again = BlockMap()
    for number, page in blocks.pages():
        assert len(page) == PAGE_BLOCKS
        again.set_page(number, page)
    assert again.runs(0, BLOCKS) == blocks.runs(0, BLOCKS)


def test_a_whole_disk_takes_no_memory() -> None:
    blocks = BlockMap()
    blocks.set(0, 4 << 28, BlockState.ZERO)  # 4 TiB
    assert len({id(page) for page in blocks._pages.values()}) == 1
    blocks.set(0, 4 << 28, BlockState.BELOW)
    assert blocks._pages == {}
