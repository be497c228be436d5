"""Kernels that decode tables beside their slow twins, on entries that are mostly right and sometimes wrong."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.allocation import Allocation
from dataplane.engine.batches import BatchBuilder, MapFault
from dataplane.engine.block_map import add_vdi_blocks, add_vhd_sectors, add_vhdx_blocks, vhd_blocks
from dataplane.engine.cluster_map import ClusterMap
from dataplane.engine.grain_map import GrainMap
from dataplane.extent import Extent, ExtentCodec, ExtentKind, unpack_batch
from tests.oracles import maps
from tests.oracles.maps import Clusters, Extents

MIB = 1 << 20
WINDOW = 1 << 40


def agree(kernel: Callable[[BatchBuilder], object], twin: Callable[[], Iterator[Extent]], size: int) -> None:
    """Assert that both give the same rows, or refuse the same place of the disk."""
    rows = BatchBuilder(WINDOW, 1 << 20)
    try:
        expected = list(twin())
    except maps.Fault as fault:
        with pytest.raises(MapFault, match=rf"for offset {fault.args[0]} "):
            kernel(rows)
        return
    kernel(rows)
    told = [row for batch in rows.take(size, last=True) for row in unpack_batch(batch)]
    assert told == maps.covering(expected, size)


def entry_of(bits: int) -> st.SearchStrategy[int]:
    place = st.integers(0, 12).map(lambda number: number << bits)
    flags = st.sampled_from([0, 0, 0, 1, 1 << 63, 1 << 63, 1 << 63 | 1, 1 << 62])
    packed = st.tuples(st.integers(0, 12 << bits), st.integers(0, (1 << (bits - 8)) - 1)).map(
        lambda told: 1 << 62 | told[1] << (62 - (bits - 8)) | told[0]
    )
    noise = st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, 63).map(lambda bit: 1 << bit))
    plain = st.builds(lambda a, b: a | b, place, flags)
    return st.one_of(st.just(0), plain, plain, plain, packed, noise)


bitmaps = st.one_of(
    st.sampled_from([0, 0xFFFF_FFFF, 0xFFFF_FFFF << 32]),
    st.builds(lambda a, b: a & ~b | b << 32, st.integers(0, 0xFFFF_FFFF), st.integers(0, 0xFFFF_FFFF)),
    st.integers(0, (1 << 64) - 1),
)


@given(data=st.data())
def test_clusters_are_what_the_slow_twin_says(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([9, 12, 16, 21]))
    extended = bits >= 14 and data.draw(st.booleans())
    size = data.draw(st.integers(1, 9 << bits))
    told = Clusters(
        bits, size, data.draw(st.integers(0, 13 << bits)), data.draw(st.booleans()), extended, data.draw(st.booleans())
    )
    words: list[int] = []
    for number in range(8):
        entry = data.draw(entry_of(bits))
        if told.external and data.draw(st.booleans()):
            entry = 1 << 63 | number << bits
        words += [entry, data.draw(bitmaps)] if extended else [entry]
    table = struct.pack(f">{len(words)}Q", *words)

    def kernel(rows: BatchBuilder) -> None:
        cluster_map = clusters(rows, told)
        cluster_map.add(array("q", [0]), table)
        expected = list(maps.clusters(table, 0, told))
        plain = sum(row.length for row in expected if row.kind == ExtentKind.DATA and not row.codec)
        assert cluster_map.data_bytes == plain
        assert cluster_map.compressed == sum(row.codec != 0 for row in expected)

    agree(kernel, lambda: maps.clusters(table, 0, told), size)


def clusters(rows: BatchBuilder, told: Clusters) -> ClusterMap:
    return ClusterMap(
        rows,
        cluster_bits=told.bits,
        virtual_size=told.virtual_size,
        data_size=told.data_size,
        reader=0,
        codec=ExtentCodec.DEFLATE,
        allows_zero=told.allows_zero,
        extended=told.extended,
        is_external=told.external,
        elsewhere="is not there",
    )


def test_pieces_of_tables_lie_where_they_are_told() -> None:
    rows = BatchBuilder(WINDOW, 1 << 20)
    told = Clusters(16, 100 << 16, 1 << 30)
    table = struct.pack(">4Q", 1 << 16, 0, 5 << 16, 6 << 16)
    clusters(rows, told).add(array("q", [4 << 16, 50 << 16]), table)
    expected = [maps.data(4 << 16, 1 << 16, 1 << 16), maps.data(50 << 16, 2 << 16, 5 << 16)]
    (batch,) = rows.take(100 << 16, last=True)
    assert list(unpack_batch(batch)) == maps.covering(expected, 100 << 16)
    for held in (b"", table[:-1], table[:-8]):
        with pytest.raises(ValueError, match="pieces of tables"):
            clusters(rows, told).add(array("q", [4 << 16, 50 << 16] if held else []), held)


@pytest.mark.parametrize(
    ("entry", "words"),
    [(1, "reserved bits"), (1 << 62 | 1 << 16, "reserved bits"), (512, "reserved|point"), (9 << 16, "not in the file")],
)
def test_level_one_entry_that_breaks_a_rule(entry: int, words: str) -> None:
    cluster_map = clusters(BatchBuilder(WINDOW, 16), Clusters(16, 1 << 40, 9 << 16))
    good = struct.pack(">4Q", 0, 1 << 63, 1 << 63 | 1 << 16, 8 << 16)
    assert cluster_map.tables(good, 10, 9 << 16).tolist() == [12, 1 << 16, 13, 8 << 16]
    with pytest.raises(MapFault, match=f"L1 entry 14.*({words})"):
        cluster_map.tables(good + struct.pack(">Q", entry), 10, 9 << 16)


@given(
    entries=st.lists(st.sampled_from([0xFFFF_FFFF, 0xFFFF_FFFE]) | st.integers(0, 9) | st.integers(0, 1 << 31)),
    size=st.integers(1, 40 * 4096),
    file_size=st.integers(512, 14 * 4096),
)
def test_vdi_blocks_are_what_the_slow_twin_says(entries: list[int], size: int, file_size: int) -> None:
    table = struct.pack(f"<{len(entries)}I", *entries)
    agree(
        lambda rows: add_vdi_blocks(
            rows, table, 0, block_size=4096, disk_size=size, data_offset=1024, file_size=file_size
        ),
        lambda: maps.vdi_blocks(table, 4096, size, 1024, file_size),
        size,
    )


vhdx_entry = st.one_of(
    st.tuples(st.integers(0, 6), st.sampled_from([0, 1, 2, 3, 5, 6, 6, 6])).map(lambda two: two[0] << 20 | two[1]),
    st.integers(0, (1 << 64) - 1),
)


@given(entries=st.lists(vhdx_entry, max_size=20), ratio=st.integers(1, 5), size=st.integers(1, 12 * MIB))
def test_vhdx_blocks_are_what_the_slow_twin_says(entries: list[int], ratio: int, size: int) -> None:
    table = struct.pack(f"<{len(entries)}Q", *entries)
    agree(
        lambda rows: add_vhdx_blocks(
            rows, table, 0, block_size=MIB, chunk_blocks=ratio, disk_size=size, file_size=6 * MIB + 1000
        ),
        lambda: maps.vhdx_blocks(table, MIB, ratio, size, 6 * MIB + 1000),
        size,
    )


@given(first=st.integers(0, 30), ratio=st.integers(1, 5))
def test_vhdx_slice_begins_at_any_block(first: int, ratio: int) -> None:
    entries = [(at + 1) << 20 | 6 for at in range(90)]
    place = first + first // ratio  # of the entry of the first block
    rows = BatchBuilder(WINDOW, 1 << 20)
    add_vhdx_blocks(
        rows,
        struct.pack("<5Q", *entries[place : place + 5]),
        first,
        block_size=MIB,
        chunk_blocks=ratio,
        disk_size=200 * MIB,
        file_size=200 * MIB,
    )
    (batch,) = rows.take(200 * MIB, last=True)
    told = [row for row in unpack_batch(batch) if row.kind == ExtentKind.DATA]
    everything = list(maps.vhdx_blocks(struct.pack("<90Q", *entries), MIB, ratio, 200 * MIB, 200 * MIB))
    count = sum((place + at + 1) % (ratio + 1) != 0 for at in range(5))
    assert told == maps.merged(everything[first : first + count])


@given(bits=st.binary(min_size=3, max_size=3), sectors=st.integers(17, 24), size=st.integers(1, 60 * 512))
def test_vhd_sectors_are_what_the_slow_twin_says(bits: bytes, sectors: int, size: int) -> None:
    guests = [guest for guest in (0, sectors * 512) if guest < size]
    places = [9 * MIB, 7 * MIB][: len(guests)]
    agree(
        lambda rows: add_vhd_sectors(
            rows, bits * len(guests), array("q", guests), array("q", places), sectors=sectors, disk_size=size
        ),
        lambda: (
            row
            for guest, place in zip(guests, places, strict=True)
            for row in maps.vhd_sectors(bits, guest, place, sectors, size)
        ),
        size,
    )


def test_vhd_blocks_have_room_for_bitmap_and_data() -> None:
    table = struct.pack(">4I", 3, 0xFFFF_FFFF, 20, 9)

    def blocks(file_size: int, allocation: Allocation | None = None) -> list[int]:
        return vhd_blocks(
            table, 0, block_size=4096, bitmap_size=512, disk_size=3 * 4096 - 512, file_size=file_size,
            allocation=allocation,
        ).tolist()  # fmt: skip

    size = 20 * 512 + 512 + 3584
    assert blocks(size) == [0, 1536, 8192, 10240]
    with pytest.raises(MapFault, match="block for offset 8192 is not in the file"):
        blocks(size - 1)
    holes = Allocation(size, 1)
    holes.add(memoryview(array("q", (10240 + 511, 1))).cast("B").cast("q", (1, 2)))
    assert blocks(size, holes) == [8192, 10240]


def grain_map(rows: BatchBuilder, told: Extents, room: int, base: int = 0) -> GrainMap:
    return GrainMap(
        rows,
        base=base,
        size=told.size,
        grain_size=told.grain,
        table_entries=told.entries,
        reader=1,
        file_size=told.file_size,
        has_zero_grains=told.zeros,
        room_min=room,
    )


@given(
    entries=st.lists(st.one_of(st.integers(0, 30), st.integers(0, (1 << 32) - 1)), min_size=6, max_size=6),
    size=st.integers(1, 9 * 4096),
    zeros=st.booleans(),
    room=st.sampled_from([0, 1, 13]),
)
def test_grains_are_what_the_slow_twin_says(entries: list[int], size: int, zeros: bool, room: int) -> None:
    told = Extents(size, 4096, 6, 40 * 512, zeros)
    table = struct.pack("<6I", *entries)
    base = 8192
    rows = BatchBuilder(WINDOW, 64)
    kernel = grain_map(rows, told, room, base)
    try:
        found = maps.grains(table, 0, told, room)
        stored = maps.bounded(found, told, 12) if room else []
    except maps.Fault as fault:
        with pytest.raises(MapFault, match=rf"grain for offset {fault.args[0]} "):
            kernel.bounded(kernel.grains(array("q", [0]), table), 12)
        return
    grains = kernel.grains(array("q", [0]), table)
    assert grains.tolist() == [number for pair in found for number in pair]
    if room:
        assert kernel.bounded(grains, 12).tolist() == [number for pair in stored for number in pair]
        kernel.add_packed(grains, kernel.bounded(grains, 12), 4096)
    else:
        kernel.add_plain(grains)
    places = iter(stored)
    expected = []
    for guest, place in found:
        length = min(4096, size - guest)
        if place == 0:
            expected.append(maps.zero(base + guest, length))
        elif not room:
            expected.append(maps.data(base + guest, length, place, 1))
        else:
            expected.append(Extent(base + guest, length, ExtentKind.DATA, ExtentCodec.ZLIB, 1, *next(places), 0, 4096))
    (batch,) = rows.take(base + size, last=True)
    assert list(unpack_batch(batch)) == maps.covering(expected, base + size)


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ((7, 100), "marker of another place"),
        ((8 + (1 << 32), 100), "marker of another place"),
        ((8, 0), "impossible size"),
        ((8, 8193), "impossible size"),
        ((8, 4000), "ends behind the file"),
    ],
)
def test_marker_that_is_not_the_grains_own(marker: tuple[int, int], words: str) -> None:
    told = Extents(2 * 4096, 4096, 2, 3000, True)
    kernel = grain_map(BatchBuilder(WINDOW, 64), told, 13)
    grains = kernel.grains(array("q", [0]), struct.pack("<2I", 1, 2))
    assert kernel.marked(grains, struct.pack("<QI", 8, 100)).tolist() == [1036, 100]
    with pytest.raises(MapFault, match=f"offset 4096 .*{words}"):
        kernel.marked(grains, struct.pack("<QI", *marker))
    with pytest.raises(IndexError):
        kernel.marked(grains, b"")
    with pytest.raises(ValueError, match="fewer"):
        kernel.add_packed(grains, array("q"), 0)


def test_directory_names_tables_inside_the_file() -> None:
    kernel = grain_map(BatchBuilder(WINDOW, 64), Extents(1 << 30, 4096, 512, 10 * 512, True), 0)
    assert kernel.tables(struct.pack("<3I", 0, 3, 6), 100).tolist() == [101, 1536, 102, 3072]
    with pytest.raises(MapFault, match="grain table 103 is not in the file"):
        kernel.tables(struct.pack("<4I", 0, 3, 6, 7), 100)
    with pytest.raises(ValueError, match="are not 2 grain tables"):
        kernel.grains(array("q", [0, 1]), bytes(2048))


def test_sizes_that_no_header_may_have_are_a_defect() -> None:
    rows = BatchBuilder(WINDOW, 64)
    with pytest.raises(ValueError, match="no map"):
        clusters(rows, Clusters(22, 1, 1))
    with pytest.raises(ValueError, match="no map"):
        grain_map(rows, Extents(1 << 60, 4096, 2, 1, True), 0)
    with pytest.raises(ValueError, match="no table"):
        add_vdi_blocks(rows, b"", 0, block_size=1 << 40, disk_size=1, data_offset=0, file_size=0)
    with pytest.raises(ValueError, match="are not the bits"):
        add_vhd_sectors(rows, b"1", array("q", [0, 1]), array("q", [0, 1]), sectors=8, disk_size=9)
