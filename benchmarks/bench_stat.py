"""Sizes of a store of a million chunks: asking for them as a whole process, and keeping them as images come and go."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.beside import Beside, Goal
from dataplane.byte_reader import ByteReader
from dataplane.formats.raw import RawSource
from dataplane.ingest.importing import import_image
from dataplane.limits import KIB
from dataplane.store import counting
from dataplane.store.store import Store

CHUNK_SIZE = 4 * KIB
IMAGE_CHUNKS = 600_000
OVERLAP_CHUNKS = 200_000
STAT_GOAL = Goal("`dataplane stat` of a store of a million chunks, whole process, in 100 ms", "at most", 1)
COUNT_GOAL = Goal("counting an image in, beside importing it", "at most", 0.25)


class NumberedChunks(ByteReader):
    """Chunks that hold nothing but their number: quick to make, small to store, all different."""

    name = "numbered chunks"

    def __init__(self, first: int, count: int) -> None:
        self._first = first
        self.size = count * CHUNK_SIZE

    def read_at(self, offset: int, length: int) -> bytes:
        """Return whole chunks."""
        rows = np.zeros((length // CHUNK_SIZE, CHUNK_SIZE // 8), dtype=np.int64)
        rows[:, 0] = np.arange(len(rows)) + self._first + offset // CHUNK_SIZE + 1
        return rows.tobytes()

    def close(self) -> None:
        """Nothing is held."""


def bring(store: Store, name: str, first: int) -> float:
    """Import an image without counting it; return the seconds."""
    started = time.perf_counter()
    import_image(store, RawSource(NumberedChunks(first, IMAGE_CHUNKS)), name=name)
    return time.perf_counter() - started


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two images of 600,000 chunks, 200,000 of them shared."""
    path = tmp_path_factory.mktemp("stat") / "store"
    with Store.create(path, chunk_size=CHUNK_SIZE) as store:
        for name, first in (("a", 0), ("b", IMAGE_CHUNKS - OVERLAP_CHUNKS)):
            bring(store, name, first)
    return path


@pytest.mark.parametrize("name", ["", "a"], ids=["store", "image"])
def test_stat(beside: Beside, store: Path, name: str) -> None:
    """The median of 15 processes, in tenths of a second."""
    command = [
        str(Path(sys.executable).with_name("dataplane")),
        "stat",
        str(store),
        *([name] if name else []),
        "--json",
    ]

    def run() -> float:
        times = []
        for _ in range(15):
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, check=True)
            times.append(time.perf_counter() - started)
        sizes = json.loads(done.stdout)
        assert sizes["distinct_chunks"] == (IMAGE_CHUNKS if name else 2 * IMAGE_CHUNKS - OVERLAP_CHUNKS)
        assert 0 < sizes["shared_size"] < sizes["unique_size"]
        return sorted(times)[7] / 0.1

    beside.once(run, named="100 ms", goal=STAT_GOAL)


def test_count(beside: Beside, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that shares a third of its chunks, in a store of a million."""

    def run() -> float:
        with Store.open(store) as opened:
            with monkeypatch.context() as patch:
                patch.setattr("dataplane.store.tidying.catch_up", lambda *_: None)
                importing = bring(opened, "c", 2 * IMAGE_CHUNKS - 2 * OVERLAP_CHUNKS)
            started = time.perf_counter()
            assert counting.update_counts(opened)
            return (time.perf_counter() - started) / importing

    beside.once(run, named="importing it", goal=COUNT_GOAL)
