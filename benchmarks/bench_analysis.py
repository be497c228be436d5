"""Analysis of a whole disk, beside reading it, and beside the digest kernel in cache."""

from __future__ import annotations

import itertools
import os
from array import array
from pathlib import Path

import pytest

from benchmarks import inputs
from benchmarks.beside import THREADS, Beside, Goal, on_threads
from benchmarks.conftest import read_anew
from dataplane.analysis.sweeping import SWEEP_WINDOW_SIZE, sweep
from dataplane.engine.blockio import data_ranges, read_ranges
from dataplane.engine.scan import scan_chunks
from dataplane.engine.table import DigestTable
from dataplane.extent import WINDOW_SIZE
from dataplane.formats.probe import open_source
from dataplane.ingest.accounting import Sizes
from dataplane.ingest.progress import Progress
from dataplane.limits import CHUNK_SIZE_DEFAULT, KIB, MIB

KEY = bytes(range(32))
PIECE_SIZE = 256 * KIB  # what a window reads at once
READ_GOAL = Goal("analysis (XXH3-128, 64 KiB) beside bare pread of the same extents", "at least", 0.85)
BLAKE3_GOAL = Goal("scan with BLAKE3 beside its kernel in cache", "at least", 0.85)
SMALL_CHUNKS_GOAL = Goal("analysis at 4 KiB beside 64 KiB", "at least", 0.6)


class BareReading:
    """pread of the data extents of a file into the places of one reused buffer a thread, and nothing else.

    The buffer is as large as a sweep's, the pieces are those that it reads, and threads claim 4 MiB at a time, as it
    does; the loop over the pieces of a claim is native and has no GIL.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self.size = 0
        pieces: dict[int, list[tuple[int, int, int]]] = {}
        flat = data_ranges(self._fd, 0, os.fstat(self._fd).st_size, 1 << 18).cast("B").cast("q").tolist()
        for start, length in zip(flat[::2], flat[1::2], strict=True):
            self.size += length
            at = start
            while at < start + length:
                stop = min(start + length, at - at % PIECE_SIZE + PIECE_SIZE)
                pieces.setdefault(at // WINDOW_SIZE, []).append((at, stop - at, at % SWEEP_WINDOW_SIZE))
                at = stop
        self._claims = [
            memoryview(array("q", itertools.chain.from_iterable(rows))).cast("B").cast("q", (len(rows), 3))
            for rows in pieces.values()
        ]
        self._buffers = [bytearray(SWEEP_WINDOW_SIZE) for _ in range(THREADS)]

    def __call__(self) -> None:
        """Read everything once."""
        counter = itertools.count()

        def read(number: int) -> None:
            while (claim := next(counter)) < len(self._claims):
                read_ranges(self._fd, self._claims[claim], self._buffers[number])

        on_threads(read)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def analyse(path: Path, key: bytes | None, chunk_size: int = CHUNK_SIZE_DEFAULT) -> Sizes:
    with open_source(str(path)) as source:
        table = DigestTable(16 if key is None else 32)
        return sweep(
            source, table,
            chunk_size=chunk_size, key=key, threads=THREADS, progress=Progress(), cancelled=None,
        )  # fmt: skip


def hash_in_cache(data: bytearray, turns: int, key: bytes | None = KEY, chunk_size: int = CHUNK_SIZE_DEFAULT) -> None:
    """Scan one piece again and again."""
    count = PIECE_SIZE // chunk_size
    digests, states = bytearray((16 if key is None else 32) * count), bytearray(count)
    for _ in range(turns):
        scan_chunks(data, chunk_size, digests, states, key)


def test_analysis_raw(beside: Beside, disk: Path) -> None:
    reading = BareReading(disk)
    beside(
        lambda: analyse(disk, None), reading,
        named="pread, 2 threads", size=reading.size, goal=READ_GOAL, rounds=15,
    )  # fmt: skip
    reading.close()


@pytest.mark.parametrize("chunk_size", [4 * KIB, 4 * MIB], ids=["4K", "4M"])
def test_analysis_raw_other_chunks(beside: Beside, disk: Path, chunk_size: int) -> None:
    reading = BareReading(disk)
    beside(lambda: analyse(disk, None, chunk_size), reading, named="pread, 2 threads", size=reading.size)
    reading.close()


def test_analysis_small_chunks(beside: Beside, disk: Path) -> None:
    reading = BareReading(disk)
    size = reading.size
    reading.close()
    beside(
        lambda: analyse(disk, None, 4 * KIB), lambda: analyse(disk, None),
        named="the same at 64 KiB", size=size, goal=SMALL_CHUNKS_GOAL,
    )  # fmt: skip


def test_analysis_blake3(beside: Beside, disk: Path) -> None:
    reading = BareReading(disk)
    size = reading.size
    reading.close()
    turns = 256 * MIB // PIECE_SIZE
    data = [bytearray(os.urandom(PIECE_SIZE)) for _ in range(THREADS)]
    beside(
        lambda: analyse(disk, KEY), lambda: on_threads(lambda number: hash_in_cache(data[number], turns)),
        named="BLAKE3 in cache, 2 threads", size=size, baseline_size=THREADS * turns * PIECE_SIZE,
        goal=BLAKE3_GOAL,
    )  # fmt: skip


def test_analysis_blake3_beside_its_two_halves(beside: Beside, disk: Path) -> None:
    """The bound that reading and then hashing has on the same cores: both halves, one after the other."""
    reading = BareReading(disk)
    data = [bytearray(os.urandom(PIECE_SIZE)) for _ in range(THREADS)]

    def halves() -> None:
        reading()
        on_threads(lambda number: hash_in_cache(data[number], reading.size // THREADS // PIECE_SIZE))

    beside(lambda: analyse(disk, KEY), halves, named="pread, then BLAKE3 in cache", size=reading.size)
    reading.close()


@pytest.mark.parametrize("compression", [None, "zlib"], ids=["plain", "zlib"])
def test_analysis_qcow2(beside: Beside, disk: Path, compression: str | None) -> None:
    """Bytes are those of the disk that hold data, as in the benchmark of the raw file."""
    image = inputs.corpus_converted(disk, "qcow2", compression=compression)
    read_anew(image)
    reading = BareReading(disk)
    beside(lambda: analyse(image, None), reading, named="pread of the raw disk", size=reading.size, rounds=5)
    reading.close()
