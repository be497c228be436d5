"""Block I/O beside plain Python on sparse files."""

from __future__ import annotations

import errno
import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.engine.blockio import data_ranges, punch_hole, read_pieces, read_ranges, write_ranges
from tests.native.shapes import int64_rows

BLOCK = 4096
FILE_SIZE = 3 * 1024 * 1024 + 777
DATA = [(0, 1), (10 * BLOCK, 3 * BLOCK), (1 << 20, 100_000), (FILE_SIZE - 5, 5)]  # offset, length; the rest is holes
FAR = (1 << 63) - 1


@pytest.fixture
def sparse(tmp_path: Path) -> Iterator[tuple[int, bytes]]:
    """A descriptor of a file with holes, and its content."""
    path = tmp_path / "sparse"
    content = bytearray(FILE_SIZE)
    with path.open("wb") as file:
        file.truncate(FILE_SIZE)
        for offset, length in DATA:
            piece = bytes(1 + place % 255 for place in range(length))
            file.seek(offset)
            file.write(piece)
            content[offset : offset + length] = piece
    fd = os.open(path, os.O_RDWR)
    yield fd, bytes(content)
    os.close(fd)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "empty", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


ranges_inside = st.lists(
    st.tuples(st.integers(0, FILE_SIZE - 200_000), st.integers(0, 200_000), st.integers(0, 50_000)), max_size=8
)
same_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@same_file
@given(ranges=ranges_inside)
def test_read_ranges_matches_slices(sparse: tuple[int, bytes], ranges: list[tuple[int, int, int]]) -> None:
    fd, content = sparse
    buffer, expected = bytearray(b"\xee" * 250_000), bytearray(b"\xee" * 250_000)
    read_ranges(fd, int64_rows(ranges, 3), buffer)
    for offset, length, at in ranges:
        expected[at : at + length] = content[offset : offset + length]
    assert buffer == expected


@same_file
@given(ranges=ranges_inside)
def test_write_ranges_matches_slices(empty: int, ranges: list[tuple[int, int, int]]) -> None:
    source = os.urandom(250_000)
    os.ftruncate(empty, 0)
    write_ranges(empty, int64_rows(ranges, 3), source)
    size = max((offset + length for offset, length, _ in ranges if length), default=0)
    expected = bytearray(size)
    for offset, length, at in ranges:
        expected[offset : offset + length] = source[at : at + length]
    assert os.pread(empty, FILE_SIZE + 1, 0) == expected


def test_read_ranges_nothing_to_read(sparse: tuple[int, bytes]) -> None:
    read_ranges(sparse[0], int64_rows([], 3), bytearray())
    read_ranges(sparse[0], int64_rows([(FAR, 0, 0)], 3), bytearray())


@pytest.mark.parametrize(
    "row",
    [(-1, 1, 0), (0, -1, 0), (0, 1, -1), (0, 11, 0), (0, 1, 10), (0, 10, 1), (0, FAR, 0), (0, 1, FAR), (0, FAR, FAR)],
)
def test_range_out_of_the_buffer_is_refused(sparse: tuple[int, bytes], row: tuple[int, int, int]) -> None:
    rows = int64_rows([(0, 1, 0), row], 3)
    with pytest.raises(ValueError, match="range 1"):
        read_ranges(sparse[0], rows, bytearray(10))
    with pytest.raises(ValueError, match="range 1"):
        write_ranges(sparse[0], rows, bytes(10))


def test_rows_of_other_width_are_refused(sparse: tuple[int, bytes]) -> None:
    with pytest.raises(ValueError, match="3 columns"):
        read_ranges(sparse[0], int64_rows([(0, 1)], 2), bytearray(10))
    with pytest.raises(ValueError, match="dimensions"):
        read_ranges(sparse[0], memoryview(bytes(24)).cast("q"), bytearray(10))


@pytest.mark.parametrize(("offset", "length"), [(FILE_SIZE - 4, 5), (FILE_SIZE, 1), (1 << 60, 1)])
def test_read_past_the_end_is_named(sparse: tuple[int, bytes], offset: int, length: int) -> None:
    with pytest.raises(EOFError, match=f"{length} bytes at {offset}"):
        read_ranges(sparse[0], int64_rows([(0, 5, 0), (offset, length, 0)], 3), bytearray(10))


def test_bad_descriptor_is_ebadf() -> None:
    rows = int64_rows([(0, 1, 0)], 3)
    for call in (
        lambda: read_ranges(-1, rows, bytearray(1)),
        lambda: write_ranges(-1, rows, b"x"),
        lambda: data_ranges(-1, 0, 10, 1),
    ):
        with pytest.raises(OSError, match="descriptor") as caught:
            call()
        assert caught.value.errno == errno.EBADF


def test_read_error_of_the_device_is_eio() -> None:
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        with pytest.raises(OSError, match="Input/output") as caught:
            read_ranges(memory.fileno(), int64_rows([(0, 1, 0)], 3), bytearray(1))
        assert caught.value.errno == errno.EIO


def test_write_to_a_full_device_is_enospc() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        with pytest.raises(OSError, match="space") as caught:
            write_ranges(full.fileno(), int64_rows([(0, 1, 0)], 3), b"x")
        assert caught.value.errno == errno.ENOSPC


def test_short_reads_of_a_pseudo_file_are_resumed() -> None:
    """A process's memory comes a page at a time across mappings' edges; one range asks for all of it."""
    held = os.urandom(300_000)
    buffer = bytearray(len(held))
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(place := bytearray(held)))
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        read_ranges(memory.fileno(), int64_rows([(address, len(held), 0)], 3), buffer)
    assert buffer == place


# ------------------------------------------------------------------------------------------ maps
def map_of(fd: int, offset: int, end: int, limit: int = 100) -> list[tuple[int, int]]:
    """Return what ``data_ranges`` finds as pairs (offset, length)."""
    flat = data_ranges(fd, offset, end, limit).cast("B").cast("q").tolist()
    return list(zip(flat[::2], flat[1::2], strict=True))


def check_map(content: bytes, offset: int, end: int, rows: list[tuple[int, int]]) -> None:
    """What is promised: rows sorted, disjoint, inside, and nothing but zeros between them."""
    position = offset
    for start, length in rows:
        assert start >= position
        assert length > 0
        assert content[position:start].count(0) == start - position
        position = start + length
    assert position <= end
    assert content[position:end].count(0) == len(content[position:end])


@same_file
@given(offset=st.integers(0, FILE_SIZE + 10), length=st.integers(0, FILE_SIZE + 10))
def test_data_ranges_leave_out_only_zeros(sparse: tuple[int, bytes], offset: int, length: int) -> None:
    fd, content = sparse
    check_map(content, offset, offset + length, map_of(fd, offset, offset + length))


def test_data_ranges_see_holes(sparse: tuple[int, bytes]) -> None:
    rows = data_ranges(sparse[0], 0, FILE_SIZE, 100)
    assert rows.shape == (4, 2)
    assert rows.format == "q"
    assert sum(length for _, length in map_of(sparse[0], 0, FILE_SIZE)) < FILE_SIZE // 4


def test_data_ranges_stop_at_the_limit_and_go_on(sparse: tuple[int, bytes]) -> None:
    fd, _ = sparse
    pieces: list[tuple[int, int]] = []
    position = 0
    while rows := map_of(fd, position, FILE_SIZE, 1):
        assert len(rows) == 1
        pieces += rows
        position = sum(rows[0])
    assert pieces == map_of(fd, 0, FILE_SIZE)


def test_data_ranges_of_holes_are_empty(sparse: tuple[int, bytes]) -> None:
    fd, _ = sparse
    for offset, end in [(2 << 20, 3 << 20), (FILE_SIZE, FILE_SIZE + 1), (7, 7)]:
        assert len(data_ranges(fd, offset, end, 10)) == 0


def test_data_ranges_past_the_end_are_clipped(sparse: tuple[int, bytes]) -> None:
    assert sum(map_of(sparse[0], 0, 1 << 62)[-1]) == FILE_SIZE


@pytest.mark.parametrize(("offset", "end", "limit"), [(-1, 5, 1), (5, 4, 1), (0, 5, 0), (0, 5, -1)])
def test_data_ranges_bad_bounds_are_refused(sparse: tuple[int, bytes], offset: int, end: int, limit: int) -> None:
    with pytest.raises(ValueError, match="no data map"):
        data_ranges(sparse[0], offset, end, limit)


def test_data_ranges_of_a_pipe_are_an_error() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match="seek"):
            data_ranges(reading, 0, 10, 1)
    finally:
        os.close(reading)
        os.close(writing)


@same_file
@given(offset=st.integers(0, FILE_SIZE + BLOCK), length=st.integers(1, FILE_SIZE))
def test_punch_hole_matches_zeros_in_a_slice(sparse: tuple[int, bytes], offset: int, length: int) -> None:
    fd, content = sparse
    write_ranges(fd, int64_rows([(0, FILE_SIZE, 0)], 3), content)
    punch_hole(fd, offset, length)
    expected = bytearray(content)
    stop = min(offset + length, FILE_SIZE)
    if offset < stop:
        expected[offset:stop] = bytes(stop - offset)
    assert os.pread(fd, 2 * FILE_SIZE, 0) == expected


def test_punch_hole_frees_blocks(sparse: tuple[int, bytes]) -> None:
    fd, _ = sparse
    write_ranges(fd, int64_rows([(0, FILE_SIZE, 0)], 3), b"\1" * FILE_SIZE)
    before = os.fstat(fd).st_blocks
    punch_hole(fd, BLOCK, 1 << 20)
    assert os.fstat(fd).st_blocks <= before - (1 << 20) // 512


def test_punch_hole_refuses(empty: int) -> None:
    for offset, length in ((-1, 5), (0, 0), (0, -1)):
        with pytest.raises(ValueError, match="byte range"):
            punch_hole(empty, offset, length)
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match=r"Illegal seek|not supported"):
            punch_hole(writing, 0, 5)
    finally:
        os.close(reading)
        os.close(writing)


@given(offsets=st.lists(st.integers(0, 990), max_size=20), length=st.integers(0, 10))
def test_pieces_lie_one_behind_the_other(offsets: list[int], length: int) -> None:
    content = bytes(range(250)) * 4
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        buffer = bytearray(length * len(offsets))
        read_pieces(file.fileno(), array("q", offsets), length, buffer)
    assert buffer == b"".join(content[at : at + length] for at in offsets)


def test_pieces_that_do_not_fit_or_end_early(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    with (tmp_path / "file").open("rb") as file:
        for count, length, room in ((1, 10, 9), (2, 10, 10), (2, -1, 0), (3, 1 << 62, 10), (0, 1, 1)):
            with pytest.raises(ValueError, match="do not fill a buffer"):
                read_pieces(file.fileno(), array("q", [0] * count), length, bytearray(room))
        with pytest.raises(EOFError, match="10 bytes at 91"):
            read_pieces(file.fileno(), array("q", [0, 91]), 10, bytearray(20))
        with pytest.raises(OSError, match="Invalid argument"):
            read_pieces(file.fileno(), array("q", [-1]), 10, bytearray(10))
