"""Imports of a whole disk, beside zstd alone over its distinct chunks."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from array import array
from pathlib import Path

from benchmarks.beside import THREADS, Beside, Goal, on_threads
from dataplane.engine.codec import Encoder
from dataplane.engine.scan import ChunkState
from dataplane.extent import WINDOW_SIZE
from dataplane.formats.probe import open_source
from dataplane.ingest.importing import ImportResult, import_image
from dataplane.limits import CHUNK_SIZE_DEFAULT, MIB
from dataplane.store.store import Store

FIRST_GOAL = Goal("first import (zstd:1) beside zstd alone over the distinct chunks", "at least", 0.65)
SECOND_GOAL = Goal("second import of the same image, times as fast as the first", "at least", 10)
MEMORY_GOAL = Goal("memory of an import, of 128 MiB + 64 B for each new chunk", "at most", 1)


class ZstdAlone:
    """Encodes chunks that are in memory on two threads, and keeps nothing."""

    def __init__(self, plain: memoryview, level: int) -> None:
        self._plain = plain
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

    def __call__(self) -> ImportResult:
        """Import the disk under a new name."""
        with Store.open(self._path) as store, open_source(str(self._disk)) as source:
            return import_image(store, source, name=next(self._names), threads=THREADS)


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


CHILD = """
import re, sys
from dataplane.cli.main import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
sys.exit(code)
"""


def test_import_memory(beside: Beside, disk: Path, tmp_path: Path) -> None:
    Imports(disk, tmp_path).renew()

    def fresh() -> float:
        command = ["import", str(tmp_path / "store"), str(disk), "--name", "disk", "--threads", str(THREADS), "--json"]
        done = subprocess.run([sys.executable, "-c", CHILD, *command], capture_output=True, text=True, check=True)
        *result, peak_kib = done.stdout.strip().splitlines()
        new_chunks = int(json.loads("".join(result))["distinct_chunks"])
        return int(peak_kib) * 1024 / (128 * MIB + 64 * new_chunks)

    beside.once(fresh, named="the bound", goal=MEMORY_GOAL)
    shutil.rmtree(tmp_path)
