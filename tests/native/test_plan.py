"""The plan: which windows a batch has, and which batches it refuses."""

from __future__ import annotations

import resource
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.codec import Codec
from dataplane.engine.plan import Plan
from dataplane.extent import Extent, ExtentKind, pack_batch
from dataplane.limits import DECODED_SIZE_MAX
from tests.native.shapes import int64_rows

TIB = 1 << 40
INT64_MAX = (1 << 63) - 1


def plan_of(extents: Sequence[Extent], window_size: int = 4096, decoded_size_max: int = DECODED_SIZE_MAX) -> Plan:
    return Plan(pack_batch(extents), window_size, decoded_size_max)


def raw(offset: int, length: int, reader: int = 0) -> Extent:
    return Extent(offset, length, ExtentKind.DATA, Codec.RAW, reader, 1000 + offset, length)


def hole(offset: int, length: int) -> Extent:
    return Extent(offset, length, ExtentKind.HOLE)


def packed(offset: int, length: int, **changes: int) -> Extent:
    row = Extent(offset, length, ExtentKind.DATA, Codec.ZSTD, 0, 50, 10, 0, length)
    return row._replace(**changes)


@given(
    start=st.integers(0, 9000),
    runs=st.lists(st.tuples(st.sampled_from(ExtentKind), st.integers(1, 700)), min_size=1, max_size=30),
    window_bits=st.integers(0, 10),
)
def test_windows_are_those_with_data(start: int, runs: list[tuple[ExtentKind, int]], window_bits: int) -> None:
    window_size = 1 << window_bits
    position = start
    extents: list[Extent] = []
    touched: set[int] = set()
    for kind, length in runs:
        if kind == ExtentKind.DATA:
            extents.append(raw(position, length))
            touched.update(range(position // window_size, (position + length - 1) // window_size + 1))
        else:
            extents.append(Extent(position, length, kind))
        position += length
    plan = plan_of(extents, window_size)
    windows = [(number * window_size, min(window_size, position - number * window_size)) for number in sorted(touched)]
    assert [plan.window(index) for index in range(plan.window_count)] == windows
    assert (plan.offset, plan.end) == (start, position)
    assert plan.data_bytes == sum(extent.length for extent in extents if extent.kind == ExtentKind.DATA)
    check_source_ranges(plan, extents, windows)


def check_source_ranges(plan: Plan, extents: list[Extent], windows: list[tuple[int, int]]) -> None:
    for index, (offset, length) in enumerate(windows):
        expected = []
        for extent in extents:
            start, stop = max(extent.offset, offset), min(extent.offset + extent.length, offset + length)
            if extent.kind == ExtentKind.DATA and start < stop:
                expected.append((extent.reader, extent.source_offset + start - extent.offset, stop - start))
        assert plan.source_ranges(index) == expected


def test_source_ranges_of_compressed_rows_are_whole() -> None:
    plan = plan_of([packed(0, 100, decoded_offset=7, decoded_length=200), raw(100, 50, reader=3)], 64)
    assert plan.source_ranges(0) == [(0, 50, 10)]
    assert plan.source_ranges(1) == [(0, 50, 10), (3, 1100, 28)]
    assert plan.readers() == [0, 3]
    assert plan.reader_max == 3
    assert (plan.decoded_length_max, plan.source_length_max) == (200, 10)


def test_plan_without_data_has_no_windows() -> None:
    plan = plan_of([hole(0, 5000), Extent(5000, 9, ExtentKind.ZERO)])
    assert (plan.window_count, plan.data_bytes, plan.reader_max, plan.readers()) == (0, 0, -1, [])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (raw(10, 5)._replace(offset=9), "before it ends"),
        (raw(10, 5)._replace(offset=11), "before it ends"),
        (hole(10, 0), "not a byte range"),
        (hole(10, -5), "not a byte range"),
        (hole(10, INT64_MAX - 9), "not a byte range"),
        (Extent(10, 5, 3), "unknown kind"),
        (Extent(10, 5, -1), "unknown kind"),
        (packed(10, 5, codec=4), "codec"),
        (packed(10, 5, codec=-1), "codec"),
        (raw(10, 5)._replace(reader=-1), "source range"),
        (raw(10, 5)._replace(source_offset=-1), "source range"),
        (raw(10, 5)._replace(source_length=0), "source range"),
        (raw(10, 5)._replace(source_length=-5), "source range"),
        (raw(10, 5)._replace(source_offset=INT64_MAX - 4), "source range"),
        (raw(10, 5)._replace(source_length=4), "another length"),
        (raw(10, 5)._replace(source_length=6), "another length"),
        (packed(10, 5, decoded_length=0), "decodes to"),
        (packed(10, 5, decoded_length=4), "decodes to"),
        (packed(10, 5, decoded_length=-1), "decodes to"),
        (packed(10, 5, decoded_offset=1), "decodes to"),
        (packed(10, 5, decoded_offset=-1), "decodes to"),
        (packed(10, 5, decoded_offset=INT64_MAX), "decodes to"),
        (packed(10, 5, decoded_length=DECODED_SIZE_MAX + 1), "decodes to"),
        (packed(10, 5, source_length=2 * DECODED_SIZE_MAX + 1), "out of proportion"),
    ],
)
def test_bad_row_is_refused(wrong: Extent, words: str) -> None:
    assert plan_of([hole(0, 10), raw(10, 5)]).end == 15
    with pytest.raises(ValueError, match=rf"extent 1 at .*{words}"):
        plan_of([hole(0, 10), wrong])


def test_first_row_before_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="extent 0 at -4096"):
        plan_of([hole(-4096, 4096)])


@pytest.mark.parametrize("window_size", [0, -1, 3, 4095, -4096])
def test_window_size_is_a_power_of_two(window_size: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        plan_of([hole(0, 10)], window_size)


@pytest.mark.parametrize("columns", [1, 8, 10])
def test_batch_of_other_width_is_refused(columns: int) -> None:
    with pytest.raises(ValueError, match="columns"):
        Plan(int64_rows([[0] * columns], columns), 4096, DECODED_SIZE_MAX)


def test_batch_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="columns"):
        Plan(int64_rows([], 9), 4096, DECODED_SIZE_MAX)


@pytest.mark.parametrize("index", [-1, 2, INT64_MAX])
def test_window_that_is_not_there_is_refused(index: int) -> None:
    plan = plan_of([raw(0, 5000)])
    with pytest.raises(IndexError, match="with 2"):
        plan.window(index)
    with pytest.raises(IndexError, match="with 2"):
        plan.source_ranges(index)


def test_huge_disk_costs_nothing() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = plan_of([raw(0, 8 * TIB), hole(8 * TIB, 8 * TIB), raw(16 * TIB, 8 * TIB)], 4 << 20)
    assert plan.window_count == 4 * TIB >> 20
    assert plan.window(plan.window_count - 1) == (24 * TIB - (4 << 20), 4 << 20)
    assert plan.window(2 * TIB >> 20) == (16 * TIB, 4 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024, "KiB"


def test_rows_at_the_end_of_64_bits_are_counted_right() -> None:
    one = Extent(0, INT64_MAX, ExtentKind.DATA, 0, 0, 0, INT64_MAX)
    plan = plan_of([one], 4096)
    assert plan.window_count == 1 << 51
    assert plan.window((1 << 51) - 1) == (INT64_MAX - 4095, 4095)
    last = INT64_MAX - 4095
    first, second = (Extent(last + at, 100, ExtentKind.DATA, 0, 0, 0, 100) for at in (0, 100))
    plan = plan_of([first, second], 4096)
    assert [plan.window(index) for index in range(plan.window_count)] == [(last, 200)]


def test_plan_keeps_its_batch_alive() -> None:
    plans = [plan_of([raw(0, 100 + number)]) for number in range(200)]
    assert [plan.source_ranges(0) for plan in plans] == [[(0, 1000, 100 + number)] for number in range(200)]
