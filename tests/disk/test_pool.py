"""Pools: what is read through one is what the store has, whatever happens to the file."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane import Pool, build_pool, open_pool
from dataplane.disks.base import StoredBase
from dataplane.disks.chunk_cache import ChunkCache
from dataplane.disks.disk import open_disk
from dataplane.disks.image_device import ImageDevice
from dataplane.disks.pinning import create_disk
from dataplane.disks.snapshot import snapshot_disk
from dataplane.errors import NotFound
from dataplane.store.store import Store
from tests.disk.helpers import bring
from tests.disks import KIB, MIB, disk_bytes

CHUNK = 64 * KIB
DATA = disk_bytes(6 * MIB + 4 * KIB, seed=8)  # the last chunk is a part of one


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("pooled")
    with Store.create(folder / "store") as made:
        bring(made, "image", DATA, folder)
        bring(made, "other", disk_bytes(MIB, seed=9), folder)
        bring(made, "zeros", bytes(MIB), folder)
        yield made


def root_of(store: Store, name: str = "image") -> bytes:
    return store.ledger.pin(name).root


def opened(store: Store, path: Path, said: list[str] | None = None) -> Pool | None:
    return open_pool(path, root_of(store), said.append if said is not None else print)


def read_through(store: Store, pool: Pool | None, offset: int, length: int) -> bytes:
    """Read from the image with nothing in memory; nobody removes it, so that a lease is not needed."""
    data = bytearray(length)
    StoredBase(store, root_of(store), "", ChunkCache(0), pool).read_into(offset, memoryview(data))
    return bytes(data)


def chunks_of(data: bytes) -> set[bytes]:
    pieces = {data[at : at + CHUNK].ljust(CHUNK, b"\0") for at in range(0, len(data), CHUNK)}
    return pieces - {bytes(CHUNK)}


@given(offset=st.integers(0, len(DATA)), length=st.integers(0, MIB))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reads_are_those_of_the_store(store: Store, tmp_path: Path, offset: int, length: int) -> None:
    path = tmp_path / "pool"
    if not path.exists():
        build_pool(store, "image", path, size_max=3 * MIB)  # half of it
    length = min(length, len(DATA) - offset)
    pool = opened(store, path)
    assert pool is not None
    assert read_through(store, pool, offset, length) == DATA[offset : offset + length]


def test_whole_image_is_read_from_a_pool_that_has_it(store: Store, tmp_path: Path) -> None:
    build_pool(store, "image", tmp_path / "pool")
    pool = opened(store, tmp_path / "pool")
    assert pool is not None
    assert pool.count == len(chunks_of(DATA)) + 1  # and the one manifest page
    assert read_through(store, pool, 0, len(DATA)) == DATA
    not_zero = sum(DATA[at : at + CHUNK].count(0) != len(DATA[at : at + CHUNK]) for at in range(0, len(DATA), CHUNK))
    assert pool.hits == not_zero + 1
    with ImageDevice(store, "image", ChunkCache(), find_pool=lambda _root: pool) as device:
        data = bytearray(4096)
        for _ in range(2):  # then from memory
            device.read_into(CHUNK * 3, memoryview(data))
        assert data == DATA[CHUNK * 3 :][:4096]
    assert pool.hits == not_zero + 3


def test_budget_bounds_the_file_and_the_first_chunks_are_in_it(store: Store, tmp_path: Path) -> None:
    for budget in (0, 4096, 64 * KIB, MIB, MIB + 1, 4 * MIB):
        size = build_pool(store, "image", tmp_path / "pool", size_max=budget)
        assert size == (tmp_path / "pool").stat().st_size
        assert size <= max(budget, 4096)
    pool = opened(store, tmp_path / "pool")
    assert pool is not None
    assert pool.count >= (4 * MIB) // (CHUNK + 100) - 2
    read_through(store, pool, 0, CHUNK)
    assert pool.hits == 2
    before = pool.hits
    read_through(store, pool, len(DATA) - 4096, 4096)
    assert pool.hits == before + 1  # the page alone


def test_ranges_of_a_trace_go_in_first(store: Store, tmp_path: Path) -> None:
    end = len(DATA) - 4096
    build_pool(store, "image", tmp_path / "pool", ranges=[(end, 1 << 40), (2 * MIB, 1), (1 << 41, 4096)])
    pool = opened(store, tmp_path / "pool")
    assert pool is not None
    wanted = chunks_of(DATA[end:]) | chunks_of(DATA[2 * MIB : 2 * MIB + CHUNK])
    assert pool.count == len(wanted) + 1
    assert read_through(store, pool, end, 4096) == DATA[end:]


@pytest.fixture(scope="module")
def small(store: Store, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A pool of a few chunks."""
    path = tmp_path_factory.mktemp("small") / "pool"
    build_pool(store, "image", path, size_max=400 * KIB)
    return path.read_bytes()


def test_flipped_bit_never_gives_wrong_bytes(store: Store, small: bytes, tmp_path: Path) -> None:
    rnd = random.Random(3)
    bits = [*range(0, 8 * 400, 7), *(rnd.randrange(8 * len(small)) for _ in range(100))]
    told = 0
    for bit in bits:
        damaged = bytearray(small)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "pool").write_bytes(damaged)
        said: list[str] = []
        assert read_through(store, opened(store, tmp_path / "pool", said), 0, 512 * KIB) == DATA[: 512 * KIB], bit
        told += bool(said)
        if bit // 8 < 80:
            assert "the store is read instead" in said[0], bit
    assert told > len(bits) // 2


def test_cut_short_grown_foreign_and_empty_files_are_ignored(store: Store, small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pool"
    build_pool(store, "other", path)
    foreign = path.read_bytes()
    table_too_long = small[:12] + struct.pack("<I", 1 << 31) + small[16:]
    for content in (b"", small[:79], small[:4096], small[:-1], small + b"\0", foreign, table_too_long, b"x" * 9000):
        path.write_bytes(content)
        said: list[str] = []
        assert opened(store, path, said) is None
        assert len(said) == 1
    path.unlink()
    assert opened(store, path, said := []) is None
    assert said == []
    path.mkdir()
    assert opened(store, path, said) is None
    assert len(said) == 1


def test_file_that_shrinks_while_it_is_open_is_not_trusted(store: Store, small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pool"
    path.write_bytes(small)
    said: list[str] = []
    pool = opened(store, path, said)
    os.truncate(path, 8192)
    assert read_through(store, pool, 0, MIB) == DATA[:MIB]
    assert len(said) == 1


def test_disk_reads_its_image_through_the_pool_and_still_does_after_a_snapshot(store: Store, tmp_path: Path) -> None:
    build_pool(store, "image", tmp_path / "pool")
    create_disk(store, tmp_path / "disk", image="image", size=8 * MIB)
    pool = opened(store, tmp_path / "pool")
    asked: list[bytes] = []

    def find(root: bytes) -> Pool | None:
        asked.append(root)
        return pool

    assert pool is not None
    with open_disk(store, tmp_path / "disk", cache=ChunkCache(0), find_pool=find) as disk:
        assert disk.read(0, len(DATA)) == DATA
        assert asked == [root_of(store)]
        disk.write(CHUNK, b"x" * CHUNK)
        assert disk.read(0, 3 * CHUNK) == DATA[:CHUNK] + b"x" * CHUNK + DATA[2 * CHUNK : 3 * CHUNK]
    snapshot_disk(store, tmp_path / "disk", name=f"taken-{time.time_ns()}")
    with open_disk(store, tmp_path / "disk", cache=ChunkCache(0), find_pool=find) as disk:
        before = pool.hits
        assert disk.read(0, len(DATA)) == DATA[:CHUNK] + b"x" * CHUNK + DATA[2 * CHUNK :]
        assert asked == [root_of(store)] * 2
        assert pool.hits > before + 10


def test_image_of_zeros_has_an_empty_pool_and_one_that_is_not_there_none(store: Store, tmp_path: Path) -> None:
    build_pool(store, "zeros", tmp_path / "pool")
    pool = open_pool(tmp_path / "pool", root_of(store, "zeros"))
    assert pool is not None
    assert (pool.count, pool.get(b"x" * 32), pool.get(bytes(32))) == (0, None, None)
    with pytest.raises(NotFound):
        build_pool(store, "nothing", tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


BUILD = """
import sys
from dataplane import Store, build_pool
with Store.open(sys.argv[1]) as store:
    print(flush=True)
    while True:
        build_pool(store, "image", sys.argv[2], size_max=int(sys.argv[3]))
"""


def test_kill_while_building_leaves_the_old_pool_or_the_new(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "pool"
    build_pool(store, "image", path, size_max=MIB)
    for delay_s in (0.0, 0.003, 0.01, 0.02, 0.05):
        command = [sys.executable, "-c", BUILD, str(store.layout.root), str(path), str(3 * MIB)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay_s)
            process.send_signal(signal.SIGKILL)
        said: list[str] = []
        pool = opened(store, path, said)
        assert pool is not None
        assert said == []
        assert read_through(store, pool, 0, len(DATA)) == DATA
        assert pool.hits > 8
