"""Staging and slabs: which ranges are fetched for a window, and what neighbours share."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dataplane.ingest import staging
from dataplane.ingest.slab import Slab
from dataplane.ingest.staging import GAP_SIZE_MAX, GAPS_SIZE_MAX, merge_ranges

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1 << 20), st.integers(1, 1 << 16)), max_size=30)


@given(ROWS)
def test_merged_ranges_are_sorted_disjoint_and_cover_all(rows: list[tuple[int, int, int]]) -> None:
    merged = merge_ranges(sorted(rows))
    assert merged == sorted(merged)
    for (reader, offset, length), (next_reader, next_offset, _) in itertools.pairwise(merged):
        assert (reader, offset + length + GAP_SIZE_MAX) < (next_reader, next_offset) or next_reader > reader
    for reader, offset, length in rows:
        assert any(r == reader and o <= offset and offset + length <= o + n for r, o, n in merged)


def test_gaps_are_closed_smallest_first_within_a_bound() -> None:
    step = GAP_SIZE_MAX + 512
    rows = [(0, at * step, 512) for at in range(1000)]
    merged = merge_ranges(rows)
    assert sum(length for _, _, length in merged) <= 1000 * 512 + GAPS_SIZE_MAX
    assert len(merged) == 1000 - GAPS_SIZE_MAX // GAP_SIZE_MAX
    # A small gap is closed before any of the large ones.
    near = merge_ranges(sorted([*rows, (0, 999 * step + 600, 12)]))
    assert near[-1] == (0, 999 * step, 612)


def test_gap_above_the_bound_stays() -> None:
    assert merge_ranges([(0, 0, 10), (0, 10 + GAP_SIZE_MAX, 5)]) == [(0, 0, 15 + GAP_SIZE_MAX)]
    assert len(merge_ranges([(0, 0, 10), (0, 11 + GAP_SIZE_MAX, 5)])) == 2
    assert len(merge_ranges([(0, 0, 10), (1, 10, 5)])) == 2
    assert staging.merge_ranges([]) == []


def test_slab_knows_what_it_fetches() -> None:
    slab = Slab([(0, 100, 50), (0, 1000, 20), (1, 0, 10)], memoryview(bytearray(80)))
    slab.fetched = [(0, 100, 50, 0), (0, 1000, 20, 50), (1, 0, 10, 70)]
    assert list(slab.overlaps((0, 120, 900))) == [(120, 30, 20), (1000, 20, 50)]
    assert list(slab.overlaps((1, 5, 100))) == [(5, 5, 75)]
    assert list(slab.overlaps((0, 150, 850))) == []
    assert list(slab.overlaps((2, 0, 100))) == []
    assert slab.rows().cast("B").cast("q").tolist() == [0, 100, 50, 0, 0, 1000, 20, 50, 1, 0, 10, 70]
