"""All chunk sizes in one reading, beside one size alone; and measuring with a sample, beside measuring everything."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from benchmarks import peer_tools
from benchmarks.bench_analysis import PIECE_SIZE, BareReading, analyse, hash_in_cache
from benchmarks.beside import THREADS, Beside, Goal, on_threads
from dataplane.analysis.block_log import BLOCKS, joined, survey
from dataplane.analysis.levels import SampledLevels, exact_levels
from dataplane.analysis.measuring import measure
from dataplane.analysis.sampled_measuring import measure_sampled
from dataplane.analysis.tuning import CHUNK_SIZES, SAMPLED_ENTRIES_MAX
from dataplane.engine.fold import fold
from dataplane.engine.scan import xxh3
from dataplane.formats.probe import open_source
from dataplane.ingest.progress import Progress
from dataplane.limits import CHUNK_SIZE_MIN, KIB

ONE_SIZE_GOAL = Goal("eleven chunk sizes beside one (rate: 1.6 times the time is 0.625)", "at least", 0.625)
READ_GOAL = Goal("eleven chunk sizes beside bare pread of the same extents", "at least", 0.6)
BORG_SIZES = (16 * KIB, 32 * KIB, 64 * KIB, 128 * KIB, 256 * KIB)
BORG_GOAL = Goal("five chunk sizes in one reading beside five runs of borg, times as fast", "at least", 60)
SAMPLE_GOAL = Goal("measure --sample 5% beside measure, times as fast", "at least", 8)


def all_sizes(path: Path, sizes: tuple[int, ...] = CHUNK_SIZES) -> int:
    """Count the chunks of every size, as ``tune`` does before it compresses samples."""
    with open_source(str(path)) as source:
        logs = [joined(list(survey(source, threads=THREADS, progress=Progress(), cancelled=None)))]
        return sum(level.counts.total_distinct for level in exact_levels(logs, [source.virtual_size], sizes, 0))


def all_sizes_sampled(path: Path) -> int:
    """The same with one digest in 64."""
    with open_source(str(path)) as source:
        levels = SampledLevels(1, CHUNK_SIZES, 64, SAMPLED_ENTRIES_MAX)
        for part in survey(source, threads=THREADS, progress=Progress(), cancelled=None):
            levels.add(0, part, source.virtual_size)
        return sum(level.counts.total_distinct for level in levels.levels(0, 0))


@pytest.mark.parametrize("chunk_size", [None, CHUNK_SIZE_MIN], ids=["64K", "4K"])
def test_tune_all_sizes_beside_one(beside: Beside, disk: Path, chunk_size: int | None) -> None:
    def one_size() -> object:
        return analyse(disk, None) if chunk_size is None else analyse(disk, None, chunk_size)

    reading = BareReading(disk)
    size = reading.size
    reading.close()
    goal = ONE_SIZE_GOAL if chunk_size is None else None
    beside(lambda: all_sizes(disk), one_size, named="a sweep of one size", size=size, goal=goal)


def test_tune_all_sizes_beside_reading(beside: Beside, disk: Path) -> None:
    reading = BareReading(disk)
    beside(lambda: all_sizes(disk), reading, named="pread, 2 threads", size=reading.size, goal=READ_GOAL)
    reading.close()


def test_tune_bound_beside_reading(beside: Beside, disk: Path) -> None:
    """What reading and then hashing blocks of 4 KiB in cache leaves of reading alone: no survey can be quicker."""
    reading = BareReading(disk)
    data = [bytearray(os.urandom(PIECE_SIZE)) for _ in range(THREADS)]
    turns = reading.size // THREADS // PIECE_SIZE

    def halves() -> None:
        reading()
        on_threads(lambda number: hash_in_cache(data[number], turns, None, CHUNK_SIZE_MIN))

    beside(halves, reading, named="pread, 2 threads", size=reading.size)
    reading.close()


def test_tune_sampled_beside_exact(beside: Beside, disk: Path) -> None:
    reading = BareReading(disk)
    size = reading.size
    reading.close()
    beside(lambda: all_sizes_sampled(disk), lambda: all_sizes(disk), named="all digests kept", size=size)


def test_tune_five_sizes_beside_borg(beside: Beside, disk: Path, tmp_path: Path) -> None:
    if peer_tools.find("borg") is None:
        pytest.skip("no borg here: apt-get install borgbackup")

    def times_as_fast() -> float:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            all_sizes(disk, BORG_SIZES)
            times.append(time.perf_counter() - started)
        return sum(peer_tools.borg_create(disk, size, tmp_path / str(size)) for size in BORG_SIZES) / median(times)

    beside.once(times_as_fast, named="five runs of borg create, fixed chunks, lz4", goal=BORG_GOAL)


def test_measure_sample(beside: Beside, disk: Path) -> None:
    reading = BareReading(disk)
    size = reading.size
    reading.close()
    with open_source(str(disk)) as source:
        beside(
            lambda: measure_sampled([source], share=0.05, threads=THREADS),
            lambda: measure([source], threads=THREADS),
            named="everything compressed", size=size, goal=SAMPLE_GOAL, rounds=3,
        )  # fmt: skip


def test_fold(beside: Beside) -> None:
    """Rates are those of the digests that go in, beside one call of the digest kernel for all of them."""
    children = np.frombuffer(os.urandom(8 * BLOCKS * 1024), dtype=np.uint64)
    parents = np.empty(len(children) // 2, dtype=np.uint64)
    beside(
        lambda: fold(children.data, parents.data),
        lambda: xxh3(children.view(np.uint8).data),
        named="XXH3-128",
        size=children.nbytes,
    )
