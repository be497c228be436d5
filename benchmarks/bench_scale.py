"""Scale: large disks, stores of many chunks, and an index of many entries.

``DATAPLANE_BENCH_SCALE_GIB`` (256) is the largest disk, of which a sixty-fourth is data, and
``DATAPLANE_BENCH_CHUNKS`` (10,000,000) the largest store and index; smaller ones are for trying things out.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from benchmarks.bench_analysis import analyse
from benchmarks.bench_stat import CHUNK_SIZE, NumberedChunks
from benchmarks.beside import THREADS, Beside, Goal
from benchmarks.conftest import read_anew
from dataplane.engine.run_builder import RunBuilder, build_filter
from dataplane.engine.runs import RunSet
from dataplane.engine.scan import ChunkState
from dataplane.formats.raw import RawSource
from dataplane.ingest.importing import import_image
from dataplane.limits import MIB
from dataplane.store import format as fmt
from dataplane.store.runs import map_file, open_run
from dataplane.store.store import Store

GIB = 1 << 30
LARGEST_GIB = int(os.environ.get("DATAPLANE_BENCH_SCALE_GIB", "256"))
CHUNKS_MAX = int(os.environ.get("DATAPLANE_BENCH_CHUNKS", "10000000"))
CHUNKS_MIN = 100_000
NEW_CHUNKS = 50_000  # that each timed import brings
PIECES_PER_GIB = 16  # of a mebibyte each
BATCH = 4096  # ids that are looked up at once
ENTRY_CHUNK = 64  # bytes that each chunk of the made-up pack takes there: its offsets have 32 bits

FLAT = 0.9
"""A rate may be a tenth lower where the work is larger."""

LOOK_UP_GOAL = Goal("index: batched look-ups a second a thread, of 2 million", "at least", 1)
OPEN_GOAL = Goal("index: cold open, of 50 ms", "at most", 1)
ENTRY_GOAL = Goal("index: bytes an entry, of 60", "at most", 1)


def spread_disk(path: Path, size_gib: int) -> Path:
    """Make a sparse raw disk with a random mebibyte at every sixty-fourth, none like another; return its path."""
    with path.open("wb") as file:
        for number in range(PIECES_PER_GIB * size_gib):
            file.seek(number * GIB // PIECES_PER_GIB)
            file.write(os.urandom(MIB))
        file.truncate(size_gib * GIB)
    read_anew_sparse(path)
    return path


def read_anew_sparse(path: Path) -> None:
    """Bring the data of a disk into the page cache as reading leaves it, without reading its holes."""
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for offset in range(0, os.fstat(file.fileno()).st_size, GIB // PIECES_PER_GIB):
            os.pread(file.fileno(), MIB, offset)


@pytest.mark.parametrize(("larger", "smaller"), [(max(2, LARGEST_GIB // 16), 1), (LARGEST_GIB, LARGEST_GIB // 16 or 1)])
def test_scale_virtual(beside: Beside, tmp_path: Path, larger: int, smaller: int) -> None:
    """Rates are of the bytes of the whole disk."""
    disks = {size: spread_disk(tmp_path / f"{size}.raw", size) for size in {larger, smaller}}
    goal = Goal(f"analysis a GiB: {larger} GiB virtual beside {smaller} GiB", "at least", FLAT)
    beside(
        lambda: analyse(disks[larger], None), lambda: analyse(disks[smaller], None),
        named=f"{smaller} GiB", size=larger * GIB, baseline_size=smaller * GIB, goal=goal,
    )  # fmt: skip
    for path in disks.values():
        path.unlink()


# ------------------------------------------------------------------------------------------------- stores of chunks
class Filled:
    """A store that starts with so many chunks, none like another, to which every call adds as many new ones again."""

    def __init__(self, path: Path, chunks: int) -> None:
        self._path = path
        self._numbers = itertools.count(chunks, NEW_CHUNKS)
        Store.create(path, chunk_size=CHUNK_SIZE).close()
        self._bring(0, chunks)

    def __call__(self) -> None:
        """Import an image of chunks that are new."""
        self._bring(next(self._numbers), NEW_CHUNKS)

    def _bring(self, first: int, count: int) -> None:
        source = RawSource(NumberedChunks(first, count))
        with Store.open(self._path) as store:
            import_image(store, source, name=f"from {first}", threads=THREADS)


def test_scale_store(beside: Beside, tmp_path: Path) -> None:
    """What an import costs does not depend on what the store holds already; tidying up is part of it."""
    small, large = Filled(tmp_path / "small", CHUNKS_MIN), Filled(tmp_path / "large", CHUNKS_MAX)
    beside(
        large, small,
        named=f"into {CHUNKS_MIN:,} chunks", size=NEW_CHUNKS * CHUNK_SIZE, rounds=5,
        goal=Goal(f"import a GiB: into a store of {CHUNKS_MAX:,} chunks beside {CHUNKS_MIN:,}", "at least", FLAT),
    )  # fmt: skip
    shutil.rmtree(tmp_path)


# --------------------------------------------------------------------------------------------- an index of entries
@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, bytes]]:
    """A run file of `CHUNKS_MAX` entries, and its ids in no order."""
    path, ids = tmp_path_factory.mktemp("scale") / "run", os.urandom(32 * CHUNKS_MAX)
    builder, lengths = RunBuilder(), array("I", [ENTRY_CHUNK]) * CHUNKS_MAX
    builder.add(0, 32, ids, lengths, lengths)
    entries = builder.finish()
    layout = fmt.RunLayout.plan(1, CHUNKS_MAX)
    path.write_bytes(fmt.build_run(layout, [bytes(32)], bytes(build_filter(entries, layout.filter_blocks)), entries))
    yield path, ids
    path.unlink()


def opened(path: Path) -> RunSet:
    data = map_file(path)
    return RunSet([open_run(data, fmt.parse_run(data, "the run")[0], bytes(1))])


def test_scale_look_up(beside: Beside, index: tuple[Path, bytes]) -> None:
    """The median of five times a million look-ups of ids that are there, on one thread, by its processor time."""
    path, ids = index
    read_anew(path)
    runs, asked = opened(path), memoryview(ids)[: 32 * 1_000_000]
    count = len(asked) // 32

    def of_goal() -> float:
        times = []
        for _ in range(5):
            started = time.thread_time()
            for at in range(0, len(asked), 32 * BATCH):
                part = asked[at : at + 32 * BATCH]
                states = bytearray([ChunkState.NEW]) * (len(part) // 32)
                found, _ = runs.mark_stored(part, states)
                assert found == len(states)
            times.append(time.thread_time() - started)
        return count / median(times) / 2e6

    beside.once(of_goal, named=f"2 million a second, at {CHUNKS_MAX:,} entries", goal=LOOK_UP_GOAL)


def test_scale_cold_open(beside: Beside, index: tuple[Path, bytes]) -> None:
    """Opening and one look-up: the median of nine, each after the file was dropped from the page cache."""

    def of_bound() -> float:
        times = []
        for _ in range(9):
            with index[0].open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            assert opened(index[0]).mark_stored(index[1][:32], bytearray([ChunkState.NEW]))[0] == 1
            times.append(time.perf_counter() - started)
        return median(times) / 0.050

    beside.once(of_bound, named=f"50 ms, at {CHUNKS_MAX:,} entries", goal=OPEN_GOAL)


def test_scale_bytes(beside: Beside, index: tuple[Path, bytes]) -> None:
    beside.once(lambda: index[0].stat().st_size / CHUNKS_MAX / 60, named="60 bytes", goal=ENTRY_GOAL)
