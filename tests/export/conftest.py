"""What the tests of exports share: a disk that ends inside a chunk, and stores of every kind that hold it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.formats.probe import open_source
from dataplane.ingest.importing import import_image
from dataplane.store.store import Store
from tests.disks import KIB, MIB, disk_bytes, write_sparse

DISK_SIZE = 13 * MIB + 3 * 512

MakeStore = Callable[..., Store]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk with a hole of 8 MiB, which begins and ends inside windows, and a last chunk that is cut."""
    data = bytearray(disk_bytes(DISK_SIZE, seed=5))
    data[3 * MIB : 11 * MIB] = bytes(8 * MIB)
    data[-512:] = b"end " * 128
    return write_sparse(tmp_path / "disk.raw", bytes(data))


@pytest.fixture
def make_store(tmp_path: Path, disk: Path) -> MakeStore:
    """Return what makes a store with `disk` in it as image ``disk``."""

    def make(chunk_size: int = 64 * KIB, codec: str = "zstd:1") -> Store:
        store = Store.create(tmp_path / "store", chunk_size=chunk_size, codec=codec)
        add(store, disk, "disk")
        return store

    return make


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    """A store of the usual kind."""
    return make_store()


def add(store: Store, path: Path, name: str) -> None:
    """Import a raw disk."""
    with open_source(path, format="raw") as source:
        import_image(store, source, name=name)


def hurt_last_chunk(store: Store, name: str = "disk") -> None:
    """Flip a bit of a chunk near the end of an image, so that an export fails when most of it is written."""
    pin = store.pin(name)
    index = store.index()
    root = store.read_root(index, pin.root, pin.domain)
    *_, (_, page) = store.read_pages(index, root)
    ids = [page[at : at + 32] for at in range(0, len(page), 32) if any(page[at : at + 32])]
    pack, offset, length, _ = index.require(ids[-1])
    path = store.layout.pack(pack)
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[offset + length // 2] ^= 1
    path.write_bytes(data)
