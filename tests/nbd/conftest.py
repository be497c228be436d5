"""A store with an image, a disk made of it, and both served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.disks.disk import Disk, open_disk
from dataplane.disks.pinning import create_disk
from dataplane.store.store import Store
from tests.disk.helpers import bring
from tests.disks import KIB, MIB, disk_bytes
from tests.nbd.client import Client
from tests.nbd.serving import Served, serving

SIZE = 2 * MIB


@pytest.fixture(scope="session")
def content() -> bytes:
    """What the image holds: its first 64 KiB are data, the next zeros."""
    data = bytearray(disk_bytes(SIZE, seed=7, block=16 * KIB))
    data[: 64 * KIB] = disk_bytes(64 * KIB, seed=8, block=64 * KIB).replace(b"\0", b"x")
    data[64 * KIB : 128 * KIB] = bytes(64 * KIB)
    return bytes(data)


@pytest.fixture
def store(tmp_path: Path, content: bytes) -> Iterator[Store]:
    with Store.create(tmp_path / "store", chunk_size=64 * KIB) as store:
        bring(store, "image", content, tmp_path)
        yield store


@pytest.fixture
def disk(store: Store, tmp_path: Path) -> Iterator[Disk]:
    create_disk(store, tmp_path / "disk", image="image")
    with open_disk(store, tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def served(disk: Disk, tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, disk) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    """A client that has not said anything yet."""
    with Client(served.socket) as client:
        yield client
