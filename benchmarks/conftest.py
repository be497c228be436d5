"""What the benchmarks share: the disk, the fixture that measures beside a baseline, and the table at the end."""

from __future__ import annotations

import os
import shutil
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import inputs
from benchmarks.beside import THREADS, Beside, Result
from benchmarks.report import tables
from dataplane.engine.plan import Plan
from dataplane.engine.scan import ChunkState
from dataplane.engine.table import DigestTable
from dataplane.engine.window import Window
from dataplane.extent import WINDOW_SIZE
from dataplane.formats.probe import open_source
from dataplane.ingest.importing import import_image
from dataplane.limits import CHUNK_SIZE_DEFAULT, DECODED_SIZE_MAX, MIB
from dataplane.store.store import Store

DISK_SIZE = int(os.environ.get("DATAPLANE_BENCH_MIB", "2048")) * MIB
"""Bytes of the disk that whole paths are measured on, half of it files; a smaller one is for trying things out."""

RESULTS: list[Result] = []


@pytest.fixture
def beside(benchmark: Any) -> Beside:
    """Measure something beside its baseline."""
    return Beside(benchmark, RESULTS)


@pytest.fixture(scope="session")
def disk() -> Path:
    """A raw ext4 disk in the page cache."""
    path = inputs.corpus_disk(DISK_SIZE)
    read_anew(path)
    return path


@pytest.fixture(scope="module")
def store(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store of the usual kind with the disk as image ``disk``, in the page cache."""
    folder = tmp_path_factory.mktemp("store")
    with Store.create(folder / "store") as store, open_source(str(disk)) as source:
        import_image(store, source, name="disk", threads=THREADS)
        for pack in store.layout.packs.rglob("*.pack"):
            read_anew(pack)
        yield store
    shutil.rmtree(folder)


def read_anew(path: Path) -> None:
    """Bring a file into the page cache by reading it, whatever was there before.

    What writing left in the cache lies in small pages, what reading brought in lies in large ones: the state has to be
    the same in every run. What difference it makes is in docs/performance.md.
    """
    inputs.drop(path)
    inputs.warm(path)


@pytest.fixture(scope="session")
def unique_chunks(disk: Path) -> memoryview:
    """The distinct chunks of the disk that are not zero, in memory, one behind the other."""
    return new_chunks_of(disk)


def new_chunks_of(disk: Path, after: Path | None = None) -> memoryview:
    """Return the distinct chunks of a disk that are not zero and not on the disk `after`, one behind the other."""
    table = DigestTable(16)
    if after is not None:
        add_chunks(table, after)
    return memoryview(add_chunks(table, disk))


def add_chunks(table: DigestTable, disk: Path) -> bytearray:
    """Note the digests of a disk's chunks in `table`; return the chunks whose digests it did not hold."""
    found, window = bytearray(), Window(WINDOW_SIZE, CHUNK_SIZE_DEFAULT)
    with open_source(str(disk)) as source:
        descriptors = array("i", [-1 if (fd := reader.fileno()) is None else fd for reader in source.readers])
        for batch in source.extents():
            plan = Plan(batch, WINDOW_SIZE, DECODED_SIZE_MAX)
            for index in range(plan.window_count):
                window.load(plan, index, descriptors)
                found += new_chunks(table, window)
    return found


def new_chunks(table: DigestTable, window: Window) -> bytes:
    """Return the chunks of a loaded window whose digests `table` did not hold, and note them there."""
    states, plain = window.states, window.plain
    table.claim(window.digests, states)
    numbers = [number for number, state in enumerate(states) if state == ChunkState.NEW]
    return b"".join(plain[number * window.chunk_size : (number + 1) * window.chunk_size] for number in numbers)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was reached."""
    if RESULTS:
        terminalreporter.write_sep("=", "goals and ratios")
        for line in tables(result.info() for result in RESULTS):
            terminalreporter.write_line(line)
