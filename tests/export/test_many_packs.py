"""Images whose chunks lie in very many packs: few are open at a time, whatever the limit on descriptors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataplane.extent import ExtentKind, unpack_batch
from dataplane.ingest import importing
from dataplane.ingest.exporting import export_image
from dataplane.store import pack as pack_module
from dataplane.store.pack_readers import PackReaders, packs_open_max
from dataplane.store.store import Store
from dataplane.store.stored_image import StoredImage
from tests.disks import KIB, MIB
from tests.export.conftest import add

PACKS = 5200
CHUNK_SIZE = 4 * KIB


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A store with an image of 5,200 chunks, each in a pack of its own."""
    folder = tmp_path_factory.mktemp("scattered")
    disk = folder / "disk"
    disk.write_bytes(b"".join((b"%d" % number).ljust(CHUNK_SIZE, b".") for number in range(PACKS)))
    store = Store.create(folder / "store", chunk_size=CHUNK_SIZE)
    add_with_tiny_packs(store, disk)
    assert len(store.ledger.packs()) >= PACKS
    return store, disk


def add_with_tiny_packs(store: Store, disk: Path) -> None:
    """Import with a pack for each chunk: every append begins a new one."""
    patch = pytest.MonkeyPatch()
    real = pack_module.PackSet.append

    def append(
        self: pack_module.PackSet, ids: memoryview, lengths: memoryview, plain_length: int, encoded: memoryview
    ) -> None:
        position = 0
        for number, length in enumerate(lengths):
            one = memoryview(ids)[32 * number : 32 * number + 32]
            real(self, one, lengths[number : number + 1], plain_length, encoded[position : position + length])
            position += length

    patch.setattr(pack_module.PackSet, "append", append)
    patch.setattr(importing, "PackSet", lambda folder, key: pack_module.PackSet(folder, key, 1))
    patch.setattr(os, "fsync", lambda fd: None)
    try:
        add(store, disk, "disk")
    finally:
        patch.undo()


@pytest.mark.parametrize("options", [["--format", "raw"], ["--format", "qcow2", "--compressed"], ["-"]])
@pytest.mark.parametrize(("limit", "threads"), [(1024, 2), (1024, 16), (64, 2)])
def test_export_keeps_within_the_limit(
    scattered: tuple[Store, Path], tmp_path: Path, options: list[str], limit: int, threads: int
) -> None:
    store, disk = scattered
    target = tmp_path / "out"
    words = ["-"] if options == ["-"] else [str(target), *options, "--verify"]
    command = [sys.executable, "-m", "dataplane", "export", str(store.path), "disk", *words, "--progress", "none"]
    with open(tmp_path / "stream", "wb") as stream:
        done = subprocess.run(
            ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *command, "--threads", str(threads)],
            stdout=stream,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    if options == ["-"]:
        assert (tmp_path / "stream").read_bytes() == disk.read_bytes()
    elif "raw" in options:
        assert target.read_bytes() == disk.read_bytes()


def test_verify_keeps_within_the_limit(scattered: tuple[Store, Path]) -> None:
    store, _ = scattered
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 100; exec "$@"', "sh", sys.executable, "-m", "dataplane", "verify", str(store.path)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"all good" in done.stdout


@pytest.mark.parametrize("open_max", [1, 7, 256, 10_000])
def test_batches_name_few_packs_and_cover_the_same(scattered: tuple[Store, Path], open_max: int) -> None:
    store, _ = scattered
    pin = store.pin("disk")
    with StoredImage(store, pin.root, pin.domain, open_max) as image:
        count = len(image.readers) // 2
        rows = []
        for batch in image.extents():
            extents = list(unpack_batch(batch))
            named = {row.reader for row in extents if row.kind == ExtentKind.DATA}
            assert len([reader for reader in named if reader < count]) <= open_max
            rows += [row._replace(reader=row.reader % count) for row in extents]
    with StoredImage(store, pin.root, pin.domain, PACKS + 1) as image:
        whole = [row for batch in image.extents() for row in unpack_batch(batch)]
    assert rows == whole


def test_batches_are_cut_at_windows(tmp_path: Path) -> None:
    """Chunks of 64 KiB, a window of 64 of them: no window alone names more than 64 packs, so none is fleeting."""
    disk = tmp_path / "disk"
    disk.write_bytes(b"".join((b"%d" % number).ljust(64 * KIB, b".") for number in range(10 * MIB // (64 * KIB))))
    store = Store.create(tmp_path / "store")
    add_with_tiny_packs(store, disk)
    pin = store.pin("disk")
    with StoredImage(store, pin.root, pin.domain, 64) as image:
        batches = [list(unpack_batch(batch)) for batch in image.extents()]
        assert [batch[0].offset for batch in batches] == [0, 4 * MIB, 8 * MIB]
        assert max(row.reader for batch in batches for row in batch) < len(image.readers) // 2
    export_image(store, "disk", tmp_path / "out", verify=True)


def test_packs_close_with_their_last_user(scattered: tuple[Store, Path]) -> None:
    store, _ = scattered
    readers = PackReaders(store, list(store.ledger.packs()), 2)
    before = len(os.listdir("/proc/self/fd"))
    held = [readers[number] for number in range(5)]
    assert len(os.listdir("/proc/self/fd")) == before + 5
    assert readers[4] is held[4]
    del held
    assert len(os.listdir("/proc/self/fd")) == before + 2
    readers.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_share_of_a_batch_shrinks_with_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 1024))
    assert packs_open_max(2) == 128
    assert packs_open_max(256) == 1
