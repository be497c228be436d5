"""The builder of batches and the layers beside their slow twins: all of one disk, in batches that keep the promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.batches import BatchBuilder, first_hole, lay_over, moved
from dataplane.extent import WINDOW_SIZE, Extent, ExtentCodec, ExtentKind, pack_batch, unpack_batch
from dataplane.formats.tables import ROWS_MAX, new_rows
from tests.oracles import maps
from tests.oracles.maps import data

DATA, ZERO, HOLE = ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.HOLE
WINDOW = 8192

Pieces = list[tuple[int, str, int]]


def packed(offset: int, length: int) -> Extent:
    return Extent(offset, length, DATA, ExtentCodec.DEFLATE, 0, offset, length, 0, length)


def layout(pieces: Pieces, window: int = WINDOW) -> list[Extent]:
    """Return rows in order: gaps, zeros, data that continues or does not, and compressed pieces inside windows."""
    rows: list[Extent] = []
    position = 0
    for sectors, kind, place in pieces:
        length = 512 * sectors
        if kind == "gap":
            position += length
            continue
        if kind == "packed":
            length = min(length, window - position % window)
            rows.append(packed(position, length))
        elif kind == "zero":
            rows.append(Extent(position, length, ZERO))
        else:
            source = position if kind == "joins" else place * 512
            rows.append(data(position, length, source, place % 2 if kind == "data" else 0))
        position += length
    return rows


kinds = st.sampled_from(["gap", "zero", "joins", "joins", "data", "packed"])
pieces = st.lists(st.tuples(st.integers(1, 40), kinds, st.integers(0, 5000)), max_size=60)


@given(pieces=pieces, more=st.integers(0, 50), every=st.integers(1, 10))
def test_batches_cover_the_disk_as_the_slow_twin_says(pieces: Pieces, more: int, every: int) -> None:
    rows = layout(pieces)
    end = (rows[-1].offset + rows[-1].length if rows else 0) + 512 * more
    builder = BatchBuilder(WINDOW, 16)
    batches: list[list[Extent]] = []
    for number, row in enumerate(rows):
        builder.add(*row)
        if number % every == 0:
            batches += [list(unpack_batch(batch)) for batch in builder.take(row.offset + row.length)]
    batches += [list(unpack_batch(batch)) for batch in builder.take(end, last=True)]
    told = [row for batch in batches for row in batch]
    assert maps.merged(told) == maps.covering(rows, end)
    assert [batch for batch in batches if len(batch) > 16] == []
    assert [batch for batch in batches if batch != maps.merged(batch)] == []
    assert all((batch[-1].offset + batch[-1].length) % WINDOW == 0 for batch in batches[:-1])
    assert sum(row.length for row in told) == end


@given(upper=pieces, lower=pieces, data_=st.data())
def test_layers_show_what_the_slow_twin_says(upper: Pieces, lower: Pieces, data_: st.DataObject) -> None:
    size = 40 * 512
    rows = []
    for made in (upper, lower):
        builder = BatchBuilder(1 << 40, ROWS_MAX)
        builder.add_rows(pack_batch([*layout(made, 1 << 40), Extent(1 << 30, 512, ZERO)]), size)
        (batch,) = builder.take(size, last=True)
        rows.append(batch)
    start = data_.draw(st.integers(0, 38))
    end = data_.draw(st.integers(start + 1, 40))
    above, below = (list(unpack_batch(batch)) for batch in rows)
    told = lay_over(rows[0], rows[1], start * 512, end * 512)
    assert list(maps.in_sectors(unpack_batch(told))) == maps.laid_over(above, below)[start:end]
    holes = [row.offset for row in list(maps.in_sectors(above))[start:end] if row.kind == HOLE]
    assert first_hole(rows[0], start * 512, end * 512) == (holes[0] if holes else -1)


def test_rows_that_are_not_behind_are_a_defect() -> None:
    builder = new_rows()
    builder.add(*data(512, 1024, 0))
    for wrong in (data(1024, 512, 0), data(2048, 0, 0), data(2048, -512, 0), data(1 << 62, 1 << 62, 0)):
        with pytest.raises(ValueError, match="does not lie behind 1536"):
            builder.add(*wrong)
    with pytest.raises(ValueError, match="rows up to 1536"):
        builder.take(1024, last=True)
    builder.add(*packed(WINDOW_SIZE - 512, 1024))
    with pytest.raises(ValueError, match="compressed"):
        builder.take(WINDOW_SIZE)


def test_batch_ends_inside_a_window_only_at_the_end() -> None:
    builder = new_rows()
    builder.add(*data(0, 512, 0))
    assert builder.take(512) == []
    builder.add(*data(512, 512, 512))
    assert builder.take(WINDOW_SIZE - 512) == []
    (first,) = builder.take(WINDOW_SIZE + 512)
    assert list(unpack_batch(first)) == [data(0, 1024, 0), Extent(1024, WINDOW_SIZE - 1024, HOLE)]
    (last,) = builder.take(WINDOW_SIZE + 1024, last=True)
    assert list(unpack_batch(last)) == [Extent(WINDOW_SIZE, 1024, HOLE)]
    assert new_rows().take(0, last=True) == []


def test_batches_bound_their_rows() -> None:
    builder, count = new_rows(), 3 * ROWS_MAX
    for at in range(count):
        builder.add(*data(at * 1024, 512, at * 4096))
    batches = builder.take(count * 1024, last=True)
    assert all(len(batch) <= ROWS_MAX for batch in batches)
    assert [batch[0, 0] % WINDOW_SIZE for batch in batches] == [0] * len(batches)
    assert sum(len(batch) for batch in batches) == 2 * count
    crowded = BatchBuilder(1 << 20, 4)
    crowded.add_rows(pack_batch([data(at * 1024, 512, 0) for at in range(9)]), 9216)
    with pytest.raises(ValueError, match="more than 4 rows"):
        crowded.take(1 << 20)


def test_layers_that_do_not_cover_are_a_defect() -> None:
    upper, lower = pack_batch([Extent(0, 4096, HOLE)]), pack_batch([Extent(512, 1024, ZERO)])
    with pytest.raises(ValueError, match="do not cover the hole at 0"):
        lay_over(upper, lower, 0, 4096)
    with pytest.raises(ValueError, match="do not cover the range"):
        lay_over(upper, lower, 0, 8192)
    with pytest.raises(ValueError, match="shape of"):
        lay_over(upper.cast("B").cast("q", (3, 3)), lower, 0, 512)


def test_moved_rows_have_other_readers_and_end_early() -> None:
    rows = [data(0, 512, 4096), Extent(512, 512, ZERO), packed(1024, 1024), Extent(2048, 512, HOLE)]
    told = list(unpack_batch(moved(pack_batch(rows), 3, 1536)))
    assert told == [rows[0]._replace(reader=3), rows[1], rows[2]._replace(reader=3, length=512)]
    with pytest.raises(ValueError, match="nothing before 0"):
        moved(pack_batch(rows), 3, 0)
