from __future__ import annotations

import numpy as np
import pytest

from dataplane.extent import WINDOW_SIZE, Extent, ExtentCodec, ExtentKind, unpack_batch
from dataplane.formats.batches import ROWS_MAX, Batcher, Rows, empty_rows, fill_gaps, merge, split

DATA, ZERO, HOLE = ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.HOLE


def rows(*extents: Extent) -> Rows:
    return np.array(extents, dtype=np.int64).reshape(len(extents), len(Extent._fields))


def extents(made: Rows) -> list[Extent]:
    return [Extent(*row) for row in made.tolist()]


def data(offset: int, length: int, source: int, reader: int = 0) -> Extent:
    return Extent(offset, length, DATA, 0, reader, source, length)


def packed(offset: int, length: int) -> Extent:
    return Extent(offset, length, DATA, ExtentCodec.DEFLATE, 0, offset, length, 0, length)


def test_merge_joins_what_continues() -> None:
    assert extents(merge(rows(data(0, 10, 100), data(10, 5, 110), data(15, 5, 115)))) == [data(0, 20, 100)]
    assert extents(merge(rows(Extent(0, 10, ZERO), Extent(10, 5, ZERO)))) == [Extent(0, 15, ZERO)]


@pytest.mark.parametrize(
    "pair",
    [
        (data(0, 10, 100), data(10, 5, 111)),
        (data(0, 10, 100), data(11, 5, 110)),
        (data(0, 10, 100, reader=0), data(10, 5, 110, reader=1)),
        (packed(0, 512), packed(512, 512)),
        (data(0, 512, 0), packed(512, 512)),
        (Extent(0, 10, ZERO), Extent(10, 5, HOLE)),
        (Extent(0, 10, ZERO), Extent(11, 5, ZERO)),
    ],
)
def test_merge_leaves_what_does_not_continue(pair: tuple[Extent, Extent]) -> None:
    assert extents(merge(rows(*pair))) == list(pair)


def test_split_cuts_a_row_in_two() -> None:
    before, behind = split(rows(data(0, 10, 100), Extent(10, 10, ZERO)), 4)
    assert extents(before) == [data(0, 4, 100)]
    assert extents(behind) == [data(4, 6, 104), Extent(10, 10, ZERO)]
    before, behind = split(rows(data(0, 10, 100), Extent(10, 10, ZERO)), 15)
    assert extents(before) == [data(0, 10, 100), Extent(10, 5, ZERO)]
    assert extents(behind) == [Extent(15, 5, ZERO)]
    assert [len(part) for part in split(rows(data(5, 5, 0)), 5)] == [0, 1]
    with pytest.raises(ValueError, match="compressed"):
        split(rows(packed(0, 512)), 256)


def test_fill_gaps_everywhere() -> None:
    filled = fill_gaps(rows(data(5, 5, 0), data(12, 3, 0), data(15, 1, 9)), 0, 20)
    expected = [Extent(0, 5, HOLE), data(5, 5, 0), Extent(10, 2, HOLE), data(12, 3, 0), data(15, 1, 9)]
    assert extents(filled) == [*expected, Extent(16, 4, HOLE)]
    assert extents(fill_gaps(empty_rows(), 3, 9)) == [Extent(3, 6, HOLE)]


def test_batcher_holds_back_the_part_of_a_window() -> None:
    batcher = Batcher()
    assert list(batcher.add(rows(data(0, 512, 0)), 512)) == []
    assert list(batcher.add(rows(data(512, 512, 512)), WINDOW_SIZE - 512)) == []
    (first,) = batcher.add(empty_rows(), WINDOW_SIZE + 512)
    assert list(unpack_batch(first)) == [data(0, 1024, 0), Extent(1024, WINDOW_SIZE - 1024, HOLE)]
    (last,) = batcher.finish(empty_rows(), WINDOW_SIZE + 1024)
    assert list(unpack_batch(last)) == [Extent(WINDOW_SIZE, 1024, HOLE)]


def test_batcher_bounds_rows() -> None:
    count = 3 * ROWS_MAX
    many = rows(*[data(at * 1024, 512, at * 4096) for at in range(count)])
    batches = list(Batcher().finish(many, count * 1024))
    assert all(len(batch) <= ROWS_MAX for batch in batches)
    assert [batch[0, 0] % WINDOW_SIZE for batch in batches] == [0] * len(batches)
    assert sum(len(batch) for batch in batches) == 2 * count
