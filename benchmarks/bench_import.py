"""Imports of a whole disk, beside zstd alone over its distinct chunks."""

from __future__ import annotations

import itertools
import os
import shutil
from array import array
from pathlib import Path

from benchmarks import inputs
from benchmarks.bench_analysis import KEY, analyse
from benchmarks.beside import THREADS, Beside, Goal, on_threads
from benchmarks.conftest import new_chunks_of, read_anew
from dataplane.engine.codec import Encoder
from dataplane.engine.scan import ChunkState
from dataplane.extent import WINDOW_SIZE
from dataplane.formats.probe import open_source
from dataplane.ingest.importing import ImportResult, import_image
from dataplane.limits import CHUNK_SIZE_DEFAULT
from dataplane.store.store import Store

FIRST_GOAL = Goal("first import (zstd:1) beside zstd alone over the distinct chunks", "at least", 0.85)
SECOND_GOAL = Goal("second import of the same image, times as fast as the first", "at least", 10)
AGAIN_GOAL = Goal("seconds of the same image again, over those of its analysis with BLAKE3", "at most", 1.3)


class ZstdAlone:
    """Encodes chunks that are in memory on two threads, and keeps nothing."""

    def __init__(self, plain: memoryview, level: int) -> None:
        self._plain = plain
        self.size = len(plain)
        self._encoders = [Encoder(level) for _ in range(THREADS)]
        self._rooms = [bytearray(WINDOW_SIZE) for _ in range(THREADS)]

    def __call__(self) -> None:
        """Encode everything once, a window at a time."""
        starts = iter(range(0, len(self._plain), WINDOW_SIZE))

        def encode(number: int) -> None:
            count = WINDOW_SIZE // CHUNK_SIZE_DEFAULT
            ids, lengths = bytearray(32 * count), array("I", bytes(4 * count))
            digests, states = bytes(32 * count), bytes([ChunkState.NEW]) * count
            for start in starts:
                piece = self._plain[start : start + WINDOW_SIZE]
                few = len(piece) // CHUNK_SIZE_DEFAULT
                self._encoders[number].encode(
                    piece, CHUNK_SIZE_DEFAULT, digests[: 32 * few], states[:few], self._rooms[number], ids, lengths
                )

        on_threads(encode)


class Imports:
    """Imports one disk into stores that come and go."""

    def __init__(self, disk: Path, folder: Path) -> None:
        self._disk = disk
        self._path = folder / "store"
        self._names = map(str, itertools.count())

    def renew(self) -> None:
        """Make the store an empty one, and let the disk come to rest."""
        shutil.rmtree(self._path, ignore_errors=True)
        Store.create(self._path).close()
        os.sync()

    def __call__(self, name: str | None = None) -> ImportResult:
        """Import the disk under `name`, by default a new one."""
        with Store.open(self._path) as store, open_source(str(self._disk)) as source:
            return import_image(store, source, name=name or next(self._names), threads=THREADS)


def test_import_first(beside: Beside, disk: Path, unique_chunks: memoryview, tmp_path: Path) -> None:
    imports = Imports(disk, tmp_path)
    alone = ZstdAlone(unique_chunks, 1)
    beside(
        imports, alone,
        named="zstd:1 alone, 2 threads", size=len(unique_chunks), goal=FIRST_GOAL, rounds=5, before=imports.renew,
    )  # fmt: skip
    shutil.rmtree(tmp_path)


def test_import_second(beside: Beside, disk: Path, unique_chunks: memoryview, tmp_path: Path) -> None:
    imports = Imports(disk, tmp_path)
    imports.renew()
    beside(
        imports, imports,
        named="the first import", size=len(unique_chunks), goal=SECOND_GOAL, rounds=3, before=imports.renew,
    )  # fmt: skip
    shutil.rmtree(tmp_path)


def test_import_again(beside: Beside, disk: Path, tmp_path: Path) -> None:
    """Every chunk is stored already: what is left is the analysis, and a manifest."""
    imports = Imports(disk, tmp_path)
    imports.renew()
    imports()
    beside(imports, lambda: analyse(disk, KEY), named="analysis with BLAKE3", goal=AGAIN_GOAL)
    shutil.rmtree(tmp_path)


def test_import_changed(beside: Beside, disk: Path, tmp_path: Path) -> None:
    """A later version of a disk that is stored, beside zstd alone over the chunks that only the later one has."""
    changed = inputs.corpus_changed(disk)
    read_anew(changed)
    first, imports = Imports(disk, tmp_path), Imports(changed, tmp_path)
    alone = ZstdAlone(new_chunks_of(changed, after=disk), 1)

    def renew() -> None:
        first.renew()
        first("before")

    beside(
        imports, alone,
        named="zstd:1 alone over its new chunks, 2 threads", size=alone.size, rounds=3, before=renew,
    )  # fmt: skip
    shutil.rmtree(tmp_path)
