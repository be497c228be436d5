"""Block I/O on a file in the page cache, beside the calls of the standard library."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Iterator

import pytest

from benchmarks.beside import Beside
from dataplane.engine.blockio import data_ranges, read_ranges, write_ranges
from dataplane.limits import KIB, MIB

PIECE = 4 * KIB
SIZE = 256 * MIB


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A descriptor of 256 MiB of data, every other piece of the second half a hole."""
    path = tmp_path_factory.mktemp("blockio") / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, SIZE)
    os.pwrite(fd, os.urandom(SIZE // 2), 0)
    for at in range(SIZE // 2, SIZE, 8 * PIECE):
        os.pwrite(fd, os.urandom(4 * PIECE), at)
    yield fd
    os.close(fd)
    path.unlink()


def rows_of(pieces: range) -> memoryview:
    flat = array("q")
    for number, at in enumerate(pieces):
        flat.extend((at, PIECE, number % 64 * PIECE))
    return memoryview(flat).cast("B").cast("q", (len(pieces), 3))


def test_blockio_read(beside: Beside, file: int) -> None:
    pieces = range(0, SIZE // 2, PIECE)
    rows, buffer = rows_of(pieces), bytearray(64 * PIECE)
    places = [memoryview(buffer)[at : at + PIECE] for at in range(0, 64 * PIECE, PIECE)]

    def plain() -> None:
        for number, at in enumerate(pieces):
            os.preadv(file, [places[number % 64]], at)

    beside(lambda: read_ranges(file, rows, buffer), plain, named="os.preadv, 4 KiB at a time", size=SIZE // 2)


def test_blockio_write(beside: Beside, file: int) -> None:
    pieces = range(0, SIZE // 2, PIECE)
    rows, buffer = rows_of(pieces), bytearray(os.urandom(64 * PIECE))
    places = [memoryview(buffer)[at : at + PIECE] for at in range(0, 64 * PIECE, PIECE)]

    def plain() -> None:
        for number, at in enumerate(pieces):
            os.pwrite(file, places[number % 64], at)

    beside(lambda: write_ranges(file, rows, buffer), plain, named="os.pwrite, 4 KiB at a time", size=SIZE // 2)


def test_blockio_map(beside: Beside, file: int) -> None:
    def plain() -> list[tuple[int, int]]:
        found, position = [], 0
        while position < SIZE:
            try:
                start = os.lseek(file, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            position = os.lseek(file, start, os.SEEK_HOLE)
            found.append((start, position - start))
        return found

    beside(lambda: data_ranges(file, 0, SIZE, 1 << 16), plain, named="os.lseek", size=SIZE)
