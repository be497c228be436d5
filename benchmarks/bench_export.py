"""Exports of a whole disk, beside decoding and hashing its chunks in memory, and beside qemu-img."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from benchmarks import inputs
from benchmarks.beside import THREADS, Beside, Goal, on_threads
from benchmarks.conftest import read_anew
from benchmarks.decoding import DecodeAlone
from dataplane.engine.blockio import write_ranges
from dataplane.extent import WINDOW_SIZE
from dataplane.ingest.exporting import export_image, export_stream
from dataplane.store.store import Store

RAW_GOAL = Goal("export to raw, sparse, beside decoding and hashing alone", "at least", 0.8)
QEMU_GOAL = Goal(
    "seconds of an export to raw, whole process, over those of qemu-img convert from zstd qcow2", "at most", 1
)


class Exports:
    """Exports an image again and again, each time to a new file."""

    def __init__(self, store: Store, **options: object) -> None:
        self._store = store
        self._options = options
        self._target = store.path.parent / "out"

    def renew(self) -> None:
        """Remove the last one, and let the disk come to rest."""
        self._target.unlink(missing_ok=True)
        os.sync()

    def __call__(self) -> None:
        """Export."""
        export_image(self._store, "disk", self._target, threads=THREADS, **self._options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"sync": False},
        {"sync": True},
        {"sync": False, "format": "qcow2"},
        {"sync": False, "format": "qcow2", "compressed": True},
    ],
    ids=["raw", "raw-durable", "qcow2", "qcow2-compressed"],
)
def test_export(beside: Beside, store: Store, options: dict[str, object]) -> None:
    """Bytes are those of the chunks that are not zero. Only `raw-durable` waits for the disk, as its default does."""
    alone, exports = DecodeAlone(store, "disk"), Exports(store, **options)
    beside(
        exports, alone,
        named="zstd + BLAKE3, 2 threads", size=alone.size,
        goal=RAW_GOAL if options == {"sync": False} else None, rounds=7, before=exports.renew,
    )  # fmt: skip
    exports.renew()


class Writing:
    """Writes so many bytes from memory into a new file on two threads, a window at a time, and waits for no disk."""

    def __init__(self, target: Path, size: int) -> None:
        self._target = target
        self._size = size
        self._windows = [memoryview(os.urandom(WINDOW_SIZE)) for _ in range(THREADS)]

    def __call__(self) -> None:
        """Write everything once."""
        starts = iter(range(0, self._size, WINDOW_SIZE))
        with self._target.open("wb") as file:

            def write(number: int) -> None:
                for start in starts:
                    rows = array("q", (start, min(WINDOW_SIZE, self._size - start), 0))
                    write_ranges(file.fileno(), memoryview(rows).cast("B").cast("q", (1, 3)), self._windows[number])

            on_threads(write)


def test_export_bound(beside: Beside, store: Store) -> None:
    """What decoding, hashing and then writing leave of decoding and hashing alone: no export to a file is quicker."""
    target = store.path.parent / "out"
    alone = DecodeAlone(store, "disk")
    writing = Writing(target, alone.size)

    def halves() -> None:
        alone()
        writing()

    def renew() -> None:
        target.unlink(missing_ok=True)
        os.sync()

    beside(halves, alone, named="zstd + BLAKE3, 2 threads", size=alone.size, rounds=7, before=renew)
    renew()


def test_export_stream(beside: Beside, store: Store) -> None:
    alone = DecodeAlone(store, "disk")
    with open(os.devnull, "wb", buffering=0) as stream:
        beside(
            lambda: export_stream(store, "disk", stream, threads=THREADS), alone,
            named="zstd + BLAKE3, 2 threads", size=alone.size, rounds=7,
        )  # fmt: skip


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_export_beside_qemu(beside: Beside, store: Store, disk: Path, format: str) -> None:
    """Whole processes. Neither waits for the disk; qemu-img works with as many coroutines as it does by itself."""
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")
    image = inputs.corpus_converted(disk, "qcow2", compression="zstd")
    read_anew(image)
    target = store.path.parent / "out"
    ours = [sys.executable, "-m", "dataplane", "export", store.path, "disk", target, "--no-sync", "--progress", "none"]
    ours += ["--threads", str(THREADS)]
    convert = ["qemu-img", "convert", "-f", "qcow2"]
    if format == "raw":
        theirs, named, goal = [*convert, "-O", "raw", image, target], "qemu-img convert to raw", QEMU_GOAL
    else:
        ours += ["--format", "qcow2", "--compressed"]
        theirs = [*convert, "-O", "qcow2", "-c", "-o", "compression_type=zstd", image, target]
        named, goal = "qemu-img convert -c", None

    def run(command: list[object]) -> None:
        target.unlink(missing_ok=True)
        subprocess.run([str(word) for word in command], check=True, stderr=subprocess.DEVNULL)

    beside(lambda: run([*ours]), lambda: run([*theirs]), named=named, goal=goal, rounds=3, before=os.sync)
    target.unlink()
