"""The map of a file's holes beside one byte for each byte, and what tables name when their file has holes."""

from __future__ import annotations

import struct
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.allocation import Allocation
from dataplane.engine.batches import BatchBuilder
from dataplane.engine.block_map import add_vdi_blocks
from dataplane.extent import ExtentKind, unpack_batch

SECTOR = 512
BLOCK = 8 * SECTOR

Ranges = list[tuple[int, int]]


def rows_of(ranges: Ranges) -> memoryview:
    flat = array("q", [number for told in ranges for number in told])
    return memoryview(flat).cast("B").cast("q", (len(ranges), 2))


def layout(gaps: list[tuple[int, int]]) -> tuple[Ranges, int]:
    """Return ranges that have these gaps before them and lengths, and where the last one ends."""
    ranges, position = [], 0
    for gap, length in gaps:
        ranges.append((position + gap, length))
        position += gap + length
    return ranges, position


def is_data(ranges: Ranges, size: int, hole_size_min: int) -> bytearray:
    """Return a 1 for each byte of a file that is data, after short holes between ranges are filled."""
    told = bytearray(size)
    for number, (start, length) in enumerate(ranges):
        told[start : start + length] = b"\1" * length
        behind = sum(ranges[number - 1]) if number else 0
        if number and start - behind < hole_size_min:
            told[behind:start] = b"\1" * (start - behind)
    return told


gaps = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 3000)), max_size=12)


@given(
    gaps=gaps, more=st.integers(0, 3000), hole_size_min=st.integers(1, 2000), split=st.integers(0, 12), data=st.data()
)
def test_map_is_what_one_flag_a_byte_says(
    gaps: list[tuple[int, int]], more: int, hole_size_min: int, split: int, data: st.DataObject
) -> None:
    ranges, end = layout(gaps)
    size = end + more
    allocation = Allocation(size, hole_size_min)
    for some in (ranges[:split], ranges[split:]):
        if some:
            allocation.add(rows_of(some))
    told = is_data(ranges, size, hole_size_min)
    assert allocation.data_bytes == sum(told)
    length = data.draw(st.integers(0, 2000))
    offsets = data.draw(st.lists(st.integers(0, size), max_size=8))
    assert allocation.stored(array("q", offsets), length) == sum(sum(told[at : at + length]) for at in offsets)


@given(
    gaps=gaps, hole_size_min=st.integers(1, 2000), size=st.integers(1, 9 * BLOCK), start=st.integers(0, BLOCK),
    entries=st.lists(st.integers(0, 6), min_size=1, max_size=9),
)  # fmt: skip
def test_rows_are_data_wherever_the_file_has_some(
    gaps: list[tuple[int, int]], hole_size_min: int, size: int, start: int, entries: list[int]
) -> None:
    ranges, end = layout(gaps)
    file_size = end + 8 * BLOCK
    told = is_data(ranges, file_size, hole_size_min)
    told += bytes(8 * BLOCK)
    allocation = Allocation(file_size, hole_size_min)
    if ranges:
        allocation.add(rows_of(ranges))
    rows = BatchBuilder(1 << 40, 1 << 20)
    rows.allocation = allocation
    named = add_vdi_blocks(
        rows, struct.pack(f"<{len(entries)}I", *entries), 0,
        block_size=BLOCK, disk_size=size, data_offset=start, file_size=file_size + 8 * BLOCK,
    )  # fmt: skip
    blocks = [(i * BLOCK, min(BLOCK, size - i * BLOCK)) for i in range(len(entries)) if i * BLOCK < size]
    assert named == sum(
        sum(told[start + entry * BLOCK :][:length]) for entry, (_, length) in zip(entries, blocks, strict=False)
    )
    covered = 0
    for batch in rows.take(size, last=True):
        for row in unpack_batch(batch):
            covered += row.length
            if row.kind == ExtentKind.HOLE:
                assert row.offset == sum(map(sum, blocks[-1:]))
                continue
            for at in range(row.offset, row.offset + row.length, SECTOR):
                place = start + entries[at // BLOCK] * BLOCK + at % BLOCK
                sector = told[place : place + min(SECTOR, row.offset + row.length - at)]
                if row.kind == ExtentKind.DATA:
                    assert any(sector)
                    assert row.source_offset + at - row.offset == place
                else:
                    assert not any(sector)
    assert covered == size


@pytest.mark.parametrize(
    "ranges", [[(-1, 2)], [(0, 0)], [(5, 6)], [(4, 2), (3, 1)], [(4, 2), (5, 1)], [(1 << 62, 1 << 62)]]
)
def test_ranges_that_are_none_are_refused(ranges: Ranges) -> None:
    with pytest.raises(ValueError, match="range at"):
        Allocation(10, 1).add(rows_of(ranges))
