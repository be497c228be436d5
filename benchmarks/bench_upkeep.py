"""Upkeep of a store: verify beside what it is made of, garbage collection, and sizes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bench_analysis import PIECE_SIZE, BareReading, hash_in_cache
from benchmarks.beside import THREADS, Beside, Goal, on_threads
from benchmarks.conftest import read_anew
from benchmarks.decoding import DecodeAlone
from dataplane.formats.probe import open_source
from dataplane.ingest.importing import import_image
from dataplane.limits import MIB
from dataplane.store.store import Store
from dataplane.upkeep.gc import collect
from dataplane.upkeep.scrub import scrub

DECODE_GOAL = Goal("verify (zstd:1) beside decoding and hashing alone", "at least", 0.8)
DIGEST_GOAL = Goal("verify (codec none) beside the BLAKE3 kernel in cache", "at least", 0.8)
STAT_GOAL = Goal("dataplane stat, whole process, of 100 ms", "at most", 1)


def filled(folder: Path, disk: Path, codec: str) -> Store:
    """Return a new store with the disk as image ``disk``, in the page cache."""
    store = Store.create(folder / "store", codec=codec)
    with open_source(str(disk)) as source:
        import_image(store, source, name="disk", threads=THREADS)
    for pack in store.layout.packs.rglob("*.pack"):
        read_anew(pack)
    return store


@pytest.fixture(scope="module", params=["zstd:1", "none"])
def store(disk: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store with the disk, compressed or not."""
    folder = tmp_path_factory.mktemp("upkeep")
    with filled(folder, disk, request.param) as store:
        yield store
    shutil.rmtree(folder)


def checked(store: Store) -> int:
    """Verify everything and return how many bytes were hashed."""
    report = scrub(store, threads=THREADS)
    assert report.complete
    assert not report.damage
    return report.bytes_checked


def test_verify(beside: Beside, store: Store) -> None:
    """Beside zstd and BLAKE3 from memory, or where nothing is compressed beside BLAKE3 on one piece in cache."""
    size = checked(store)
    if store.codec.level is not None:
        alone = DecodeAlone(store, "disk")
        beside(
            lambda: checked(store), alone,
            named="zstd + BLAKE3, 2 threads", size=size, baseline_size=alone.size, goal=DECODE_GOAL,
        )  # fmt: skip
        return
    turns = 256 * MIB // PIECE_SIZE
    data = [bytearray(os.urandom(PIECE_SIZE)) for _ in range(THREADS)]
    beside(
        lambda: checked(store), lambda: on_threads(lambda number: hash_in_cache(data[number], turns)),
        named="BLAKE3 in cache, 2 threads", size=size, baseline_size=THREADS * turns * PIECE_SIZE, goal=DIGEST_GOAL,
    )  # fmt: skip


def test_verify_beside_its_two_halves(beside: Beside, store: Store) -> None:
    """The bound that reading and then hashing has on the same cores: both halves, one after the other."""
    if store.codec.level is not None:
        pytest.skip("only where nothing is compressed is verifying just reading and hashing")
    reading = [BareReading(pack) for pack in store.layout.packs.rglob("*.pack")]
    turns = sum(pack.size for pack in reading) // THREADS // PIECE_SIZE
    data = [bytearray(os.urandom(PIECE_SIZE)) for _ in range(THREADS)]

    def halves() -> None:
        for pack in reading:
            pack()
        on_threads(lambda number: hash_in_cache(data[number], turns))

    beside(
        lambda: checked(store), halves,
        named="pread, then BLAKE3 in cache", size=checked(store), baseline_size=turns * THREADS * PIECE_SIZE,
    )  # fmt: skip
    for pack in reading:
        pack.close()


def test_gc_mark(beside: Beside, store: Store) -> None:
    """A collection that finds nothing to do: everything marked, every pack looked at. Bytes are 32 for each chunk."""
    pin = store.pin("disk")

    def manifest() -> None:
        index = store.index()
        for _ in store.read_pages(index, store.read_root(index, pin.root, pin.domain)):
            pass

    beside(
        lambda: collect(store, dry_run=True), manifest, named="reading the manifest", size=32 * pin.chunks, rounds=15
    )  # fmt: skip


def test_gc_sweep(beside: Beside, store: Store, tmp_path: Path) -> None:
    """A collection that deletes everything, beside deleting a copy of the same files."""
    whole, copy = tmp_path / "whole", tmp_path / "copy"
    size = sum(path.stat().st_size for path in store.layout.packs.rglob("*.pack"))

    def renew() -> None:
        for folder in (whole, copy):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(store.path, whole)
        shutil.copytree(store.layout.packs, copy)
        with Store.open(whole) as doomed:
            doomed.unpin("disk")
        os.sync()

    def sweep() -> None:
        with Store.open(whole) as doomed:
            assert collect(doomed, grace_s=0).deleted_packs

    renew()
    beside(sweep, lambda: shutil.rmtree(copy), named="rm -r of the packs", size=size, rounds=3, before=renew)


def test_stat(beside: Beside, store: Store) -> None:
    command = [sys.executable, "-m", "dataplane", "stat", str(store.path), "--json"]
    beside(
        lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True),
        lambda: subprocess.run([sys.executable, "-c", "import time; time.sleep(0.1)"], check=True),
        named="python that sleeps for 100 ms", goal=STAT_GOAL, rounds=9,
    )  # fmt: skip
