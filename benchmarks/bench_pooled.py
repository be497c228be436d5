"""Pooled images: the first reads of a new disk beside those of a plain file in the page cache, and without a pool."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.beside import Beside, Goal
from benchmarks.conftest import read_anew
from dataplane.disks.chunk_cache import ChunkCache
from dataplane.disks.disk import open_disk
from dataplane.disks.pinning import create_disk, delete_disk
from dataplane.disks.pool import build_pool, open_pool
from dataplane.limits import KIB, MIB
from dataplane.store.store import Store

FILE_GOAL = Goal(
    "first reads of a new disk of a pooled image, beside those of a file in the page cache", "at least", 0.5
)
STORE_GOAL = Goal("first reads of a new disk of a pooled image, times as fast as without a pool", "at least", 2)
POOL_SIZE = 64 * MIB
READ_SIZE = 128 * KIB
READS = 400
"""What a guest's read-ahead asks for at a time, and how often: 50 MiB, as much as a small boot reads."""


@pytest.fixture(scope="module")
def places(store: Store) -> list[int]:
    """Where the first reads are: in an order of chance, none of them only zeros, all of them in the pool."""
    create_disk(store, store.path.parent / "looked-at", image="disk")
    with open_disk(store, store.path.parent / "looked-at") as disk:
        found = []
        for offset in range(0, disk.size - READ_SIZE, READ_SIZE):
            if not any(span.zero for span in disk.extents(offset, READ_SIZE)):
                found.append(offset)
            if len(found) == READS:
                break
    delete_disk(store, store.path.parent / "looked-at")
    random.Random(4).shuffle(found)
    return found


@pytest.fixture(scope="module")
def pool(store: Store, places: list[int]) -> Path:
    """A pool with what is read, in the page cache."""
    path = store.path.parent / "image.pool"
    build_pool(store, "disk", path, size_max=POOL_SIZE, ranges=[(offset, READ_SIZE) for offset in places])
    read_anew(path)
    return path


def first_reads(store: Store, places: list[int], pool: Path | None) -> float:
    """Make a disk, open it with an empty cache, and return the seconds that its first reads take."""
    folder = store.path.parent / "disk"
    create_disk(store, folder, image="disk")
    room = memoryview(bytearray(READ_SIZE))
    find = None if pool is None else lambda root: open_pool(pool, root, report_nothing)
    with open_disk(store, folder, cache=ChunkCache(), find_pool=find) as disk:
        started = time.perf_counter()
        for offset in places:
            disk.read_into(offset, room)
        seconds = time.perf_counter() - started
    delete_disk(store, folder)
    return seconds


def report_nothing(reason: str) -> None:
    """Fail: a pool that cannot be used would be measured as if there were none."""
    raise AssertionError(reason)


def in_turns(subject: Callable[[], float], baseline: Callable[[], float], rounds: int = 7) -> float:
    """Return the median of how many times as fast `subject` is, both measured in turns."""
    ratios = sorted(baseline() / subject() for _ in range(rounds))
    return ratios[rounds // 2]


def test_pooled_beside_a_file(beside: Beside, store: Store, disk: Path, places: list[int], pool: Path) -> None:
    """The file is the raw disk itself, read at the same places into the same memory."""
    room = memoryview(bytearray(READ_SIZE))

    def from_file() -> float:
        with open(disk, "rb", buffering=0) as file:
            started = time.perf_counter()
            for offset in places:
                file.seek(offset)
                assert file.readinto(room) == READ_SIZE
            return time.perf_counter() - started

    def compare() -> float:
        return in_turns(lambda: first_reads(store, places, pool), from_file)

    beside.once(compare, named="a file in the page cache", goal=FILE_GOAL)


def test_pooled_beside_the_store(beside: Beside, store: Store, places: list[int], pool: Path) -> None:
    def compare() -> float:
        return in_turns(lambda: first_reads(store, places, pool), lambda: first_reads(store, places, None))

    beside.once(compare, named="without a pool", goal=STORE_GOAL)
