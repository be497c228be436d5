"""Disks over NBD beside exports and qemu-nbd; how long a first read, a new disk and a snapshot take."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import inputs
from benchmarks.beside import THREADS, Beside, Goal
from benchmarks.conftest import read_anew
from dataplane.disks.disk import open_disk
from dataplane.disks.pinning import create_disk, delete_disk
from dataplane.disks.snapshot import snapshot_disk
from dataplane.formats.probe import open_source
from dataplane.ingest.importing import import_image
from dataplane.store.store import Store
from tests.nbd.client import Client

MIB = 1 << 20
TIB = 1 << 40
EXPORT_GOAL = Goal("nbdcopy of an image to nowhere, beside an export of it to a pipe", "at least", 0.6)
QEMU_GOAL = Goal("nbdcopy of an image to nowhere, beside qemu-nbd with zstd-compressed qcow2", "at least", 2)
RANDOM_GOAL = Goal("4 KiB at a time here and there, warm, beside qemu-nbd on the same", "at least", 1)
FIRST_GOAL = Goal("a connection and its first read, over 10 ms", "at most", 1)
CREATE_GOAL = Goal("99 of 100 new disks of 1 TiB, over 20 ms", "at most", 1)
LINEAR_GOAL = Goal("seconds for a byte of a snapshot of 256 MiB changed, over those with 64 MiB", "at most", 1.3)
RANDOM_READS = 20_000


@contextmanager
def served(store: Store, *options: str) -> Iterator[str]:
    """Serve the image; give the URL."""
    socket = store.path.parent / "dataplane.sock"
    words = [store.path, "disk", "--read-only", "--socket", socket, *options]
    command = [sys.executable, "-m", "dataplane", "nbd", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield f"nbd+unix:///disk?socket={socket}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def served_by_qemu(store: Store, disk: Path) -> Iterator[str]:
    """Serve the disk as zstd-compressed qcow2 with qemu-nbd, to as many connections as nbdcopy makes; give the URL."""
    if shutil.which("qemu-nbd") is None:
        pytest.skip("qemu-nbd is not installed")
    image = inputs.corpus_converted(disk, "qcow2", compression="zstd")
    read_anew(image)
    socket = store.path.parent / "qemu.sock"
    process = subprocess.Popen(["qemu-nbd", "-t", "-r", "-e", "8", "-f", "qcow2", "-k", str(socket), str(image)])
    while not socket.exists():
        time.sleep(0.01)
    try:
        yield f"nbd+unix:///?socket={socket}"
    finally:
        process.terminate()
        process.wait()


def copy(url: str) -> None:
    """Read all of an export."""
    subprocess.run(["nbdcopy", url, "null:"], check=True)


def test_sequential_beside_export(beside: Beside, store: Store) -> None:
    """Whole processes on the export's side; bytes are those of the disk."""
    export = f"{sys.executable} -m dataplane export {store.path} disk - --progress none --threads {THREADS} | cat"

    def run() -> None:
        subprocess.run(["sh", "-c", f"{export} > /dev/null"], check=True, stderr=subprocess.DEVNULL)

    size = store.pin("disk").virtual_size
    with served(store) as url:
        beside(lambda: copy(url), run, named="export to a pipe", size=size, goal=EXPORT_GOAL, rounds=5, elsewhere=True)


def test_sequential_beside_qemu(beside: Beside, store: Store, disk: Path) -> None:
    size = store.pin("disk").virtual_size
    with served(store) as url, served_by_qemu(store, disk) as other:
        beside(
            lambda: copy(url),
            lambda: copy(other),
            named="qemu-nbd",
            size=size,
            goal=QEMU_GOAL,
            rounds=5,
            elsewhere=True,
        )


def test_random_beside_qemu(beside: Beside, store: Store, disk: Path) -> None:
    """Steps through the disk by 1 MiB and 4 KiB, 16 requests at a time, within what the cache holds."""

    def bench(url: str) -> None:
        words = ["qemu-img", "bench", "-f", "raw", "-c", str(RANDOM_READS), "-d", "16", "-s", "4096"]
        subprocess.run([*words, "-S", str(MIB + 4096), url], check=True, stdout=subprocess.DEVNULL)

    size = RANDOM_READS * 4096
    with served(store, "--cache", "4G") as url, served_by_qemu(store, disk) as other:
        bench(url)
        beside(
            lambda: bench(url),
            lambda: bench(other),
            named="qemu-nbd",
            size=size,
            goal=RANDOM_GOAL,
            rounds=5,
            elsewhere=True,
        )


def test_first_read(beside: Beside, store: Store) -> None:
    """Of a server that has just said that it is ready: connect, agree, read 4 KiB that have data."""

    def once() -> float:
        with served(store):
            started = time.perf_counter()
            with Client(store.path.parent / "dataplane.sock") as client:
                client.begin("disk")
                client.read(0, 4096)
            return time.perf_counter() - started

    beside.once(lambda: sorted(once() for _ in range(9))[4] / 0.010, named="10 ms", goal=FIRST_GOAL)


def test_new_disk(beside: Beside, store: Store, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse.raw"
    with open(sparse, "wb") as file:
        file.truncate(TIB)
        file.seek(TIB // 2)
        file.write(random.Random(1).randbytes(MIB))
    with open_source(sparse, format="raw") as source:
        import_image(store, source, name="large", threads=THREADS)

    def once(number: int) -> float:
        started = time.perf_counter()
        create_disk(store, tmp_path / f"disk-{number}", image="large")
        return time.perf_counter() - started

    beside.once(lambda: sorted(once(number) for number in range(100))[98] / 0.020, named="20 ms", goal=CREATE_GOAL)
    for number in range(100):
        delete_disk(store, tmp_path / f"disk-{number}")
    store.unpin("large")


def test_snapshot_cost_grows_with_the_change(beside: Beside, store: Store, tmp_path: Path) -> None:
    """Random data into a disk of 64 GiB over the image, then a snapshot; the quickest of three of each size."""

    def once(size: int, seed: int) -> float:
        create_disk(store, tmp_path / "disk", image="disk", size=64 << 30)
        rnd = random.Random(seed)
        with open_disk(store, tmp_path / "disk") as disk:
            for at in range(0, size, MIB):
                disk.write((32 << 30) + at, rnd.randbytes(MIB))
            disk.flush()
            started = time.perf_counter()
            snapshot_disk(store, disk, name="snapshot", threads=THREADS)
            seconds = time.perf_counter() - started
        delete_disk(store, tmp_path / "disk")
        store.unpin("snapshot")
        return seconds

    def compare() -> float:
        small = min(once(64 * MIB, seed) for seed in range(3))
        large = min(once(256 * MIB, 10 + seed) for seed in range(3))
        return (large / 256) / (small / 64)

    beside.once(compare, named="64 MiB changed", goal=LINEAR_GOAL)
