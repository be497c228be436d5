"""Every command, with structured replies and without, and every error."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.disks.chunk_cache import ChunkCache
from dataplane.disks.disk import Disk, Span, open_disk
from dataplane.disks.image_device import ImageDevice
from dataplane.disks.pinning import create_disk
from dataplane.errors import IoFailed, NoSpace
from dataplane.nbd.watching import WatchedDevice
from dataplane.store.store import Store
from tests.disks import KIB, MIB
from tests.nbd.client import (
    CACHE,
    DF,
    DISC,
    EINVAL,
    EIO,
    ENOSPC,
    ENOTSUP,
    EPERM,
    FAST_ZERO,
    FLUSH,
    FUA,
    NO_HOLE,
    READ,
    REQ_ONE,
    STATUS,
    TRIM,
    WRITE,
    ZEROES,
    Client,
)
from tests.nbd.conftest import SIZE
from tests.nbd.serving import Served, serving

BIG = 32 * MIB


@pytest.fixture(params=[True, False], ids=["structured", "simple"])
def begun(request: pytest.FixtureRequest, client: Client) -> Client:
    """A client in transmission."""
    client.begin("disk", structured=request.param)
    return client


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (0, SIZE), (SIZE - 1, 1), (65535, 2), (4095, 4098), (60 * KIB, 70 * KIB), (64 * KIB, 64 * KIB), (0, 0)],
)
def test_reads_are_what_the_image_holds(begun: Client, content: bytes, offset: int, length: int) -> None:
    if length:
        assert begun.read(offset, length) == content[offset : offset + length]
        assert begun.read(offset, length) == content[offset : offset + length]  # from memory
    else:
        assert begun.do(READ, offset, 0).error == 0


def test_holes_come_without_data(client: Client, content: bytes) -> None:
    client.begin("disk")
    answer = client.do(READ, 60 * KIB, 72 * KIB)
    assert [(kind, len(payload)) for kind, payload in answer.chunks] == [
        (1, 8 + 4 * KIB),
        (2, 12),
        (1, 8 + 4 * KIB),
    ]
    assert answer.content(60 * KIB, 72 * KIB) == content[60 * KIB : 132 * KIB]


def test_a_read_that_must_not_be_cut_comes_as_one(client: Client, content: bytes) -> None:
    client.begin("disk")
    answer = client.do(READ, 0, SIZE, DF)
    assert [kind for kind, _ in answer.chunks] == [1]
    assert answer.content(0, SIZE) == content


def test_what_is_written_is_read(begun: Client, disk: Disk, content: bytes) -> None:
    model = bytearray(content)
    rnd = random.Random(3)
    for _ in range(60):
        offset = rnd.randrange(SIZE)
        length = min(rnd.choice([1, 512, 4096, 70_000]), SIZE - offset)
        data = rnd.randbytes(length)
        assert begun.write(offset, data, rnd.choice([0, FUA])) == 0
        model[offset : offset + length] = data
    assert begun.do(FLUSH).error == 0
    assert begun.read(0, SIZE) == model
    assert disk.read(0, SIZE) == model


def test_a_write_of_the_largest_payload_is_taken(store: Store, tmp_path: Path) -> None:
    create_disk(store, tmp_path / "large", size=2 * BIG)
    with (
        open_disk(store, tmp_path / "large") as disk,
        serving(tmp_path, disk) as served,
        Client(served.socket) as client,
    ):
        client.begin("disk")
        data = random.Random(1).randbytes(BIG)
        assert client.write(BIG, data) == 0
        assert client.read(BIG, BIG) == data
        assert client.do(READ, 0, BIG + 1).error == EINVAL
        client.request(WRITE, 0, BIG + 1)
        assert client.is_closed()


@pytest.mark.parametrize("command", [ZEROES, TRIM])
def test_zeros_and_trims_read_as_zeros(begun: Client, content: bytes, command: int) -> None:
    assert begun.do(command, 4096, 8192).error == 0
    assert begun.read(0, 20_000) == content[:4096] + bytes(8192) + content[12288:20_000]
    assert begun.do(command, 16384, 4096, FUA).error == 0
    assert begun.read(16384, 4096) == bytes(4096)


def test_zeros_may_begin_and_end_anywhere(begun: Client, content: bytes) -> None:
    assert begun.do(ZEROES, 100, 9000).error == 0
    assert begun.do(ZEROES, 12_300, 50).error == 0
    expected = content[:100] + bytes(9000) + content[9100:12_300] + bytes(50) + content[12_350:20_000]
    assert begun.read(0, 20_000) == expected


def test_zeros_that_must_take_room_do(client: Client, disk: Disk) -> None:
    client.begin("disk")
    assert client.do(ZEROES, 0, 8192, FAST_ZERO).error == 0
    assert client.do(STATUS, 0, 8192).extents() == [(8192, 3)]
    assert client.do(ZEROES, 0, 8192, NO_HOLE | FUA).error == 0
    assert client.do(STATUS, 0, 8192).extents() == [(8192, 0)]
    assert client.read(0, 8192) == bytes(8192)
    assert client.do(ZEROES, 0, 8192, NO_HOLE | FAST_ZERO).error == ENOTSUP
    assert disk.status().written_size == 8192


def test_block_status_tells_holes_from_data(client: Client) -> None:
    client.begin("disk")
    assert client.do(STATUS, 0, 192 * KIB).extents()[:2] == [(64 * KIB, 0), (64 * KIB, 3)]
    assert client.do(STATUS, 0, 192 * KIB, REQ_ONE).extents() == [(64 * KIB, 0)]
    assert client.do(STATUS, 1000, 100).extents() == [(100, 0)]
    client.write(68 * KIB, b"x")
    client.do(TRIM, 8 * KIB, 4 * KIB)
    assert client.do(STATUS, 0, 128 * KIB).extents() == [
        (8 * KIB, 0),
        (4 * KIB, 3),
        (52 * KIB, 0),
        (4 * KIB, 3),
        (4 * KIB, 0),
        (56 * KIB, 3),
    ]


def test_block_status_of_very_many_runs_is_cut_off(client: Client) -> None:
    client.begin("disk")
    for at in range(0, SIZE, 2 * KIB * 4):
        client.write(at, b"data")
        client.do(TRIM, at + 4 * KIB, 4 * KIB)
    assert sum(length for length, _ in client.do(STATUS, 0, SIZE).extents()) <= SIZE
    assert client.do(STATUS, 0, SIZE).extents()[:2] == [(4 * KIB, 0), (4 * KIB, 3)]


def test_cache_brings_chunks_into_memory(client: Client, disk: Disk) -> None:
    client.begin("disk")
    view = memoryview(bytearray(4096))
    assert not disk.read_cached(0, view)
    assert client.do(CACHE, 0, 4096).error == 0
    assert disk.read_cached(0, view)


@pytest.mark.parametrize(
    ("command", "offset", "length", "flags", "error"),
    [
        (READ, SIZE, 1, 0, EINVAL),
        (READ, SIZE - 1, 2, 0, EINVAL),
        (READ, 2**64 - 1, 1, 0, EINVAL),
        (READ, 0, BIG + 1, 0, EINVAL),
        (READ, 0, 2**32 - 1, 0, EINVAL),
        (READ, 0, 1, REQ_ONE, EINVAL),
        (READ, 0, 1, 1 << 15, EINVAL),
        (TRIM, SIZE, 1, 0, ENOSPC),
        (TRIM, 0, 2**32 - 1, 0, ENOSPC),
        (TRIM, 0, 1, NO_HOLE, EINVAL),
        (ZEROES, SIZE - 1, 2, 0, ENOSPC),
        (ZEROES, 2**63, 1, 0, ENOSPC),
        (CACHE, SIZE, 1, 0, EINVAL),
        (FLUSH, 1, 0, 0, EINVAL),
        (FLUSH, 0, 1, 0, EINVAL),
        (FLUSH, 0, 0, FUA, EINVAL),
        (STATUS, SIZE - 1, 2, 0, EINVAL),
        (STATUS, 0, 0, 0, EINVAL),
        (8, 0, 0, 0, EINVAL),
        (0xFFFF, 0, 0, 0, EINVAL),
    ],
)
def test_requests_that_make_no_sense_are_errors(
    begun: Client, content: bytes, command: int, offset: int, length: int, flags: int, error: int
) -> None:
    assert begun.do(command, offset, length, flags).error == error
    assert begun.read(0, 10) == content[:10]


def test_writes_past_the_end_are_errors_and_their_data_is_skipped(begun: Client, content: bytes) -> None:
    assert begun.write(SIZE - 1, b"xx") == ENOSPC
    assert begun.do(WRITE, 0, 3, DF, b"abc").error == EINVAL
    assert begun.read(SIZE - 10, 10) == content[-10:]


def test_status_without_a_context_is_an_error(client: Client) -> None:
    client.begin("disk", structured=False)
    assert client.do(STATUS, 0, 4096).error == EINVAL


def test_image_is_read_only(store: Store, tmp_path: Path, content: bytes) -> None:
    with (
        ImageDevice(store, "image", ChunkCache()) as image,
        serving(tmp_path, image) as served,
        Client(served.socket) as client,
    ):
        _, flags = client.begin("disk")
        assert flags & 2
        assert not flags & (32 | 64)
        assert client.write(0, b"x") == EPERM
        assert client.do(TRIM, 0, 4096).error == EPERM
        assert client.do(ZEROES, 0, 4096).error == EPERM
        assert client.do(FLUSH).error == 0
        assert client.read(0, SIZE) == content


def test_disconnect_ends_what_is_under_way_first(client: Client, served: Served, disk: Disk) -> None:
    client.begin("disk")
    for at in range(20):
        client.request(WRITE, at * 4096, 4096, 0, bytes([at + 1]) * 4096)
    client.request(DISC)
    assert client.is_closed()
    assert disk.read(0, 20 * 4096) == b"".join(bytes([at + 1]) * 4096 for at in range(20))
    assert served.messages == []


def test_many_requests_at_once_are_all_answered(client: Client, content: bytes) -> None:
    """More than are worked on at once, answered in any order."""
    client.begin("disk")
    rnd = random.Random(9)
    asked = {}
    for _ in range(500):
        offset = rnd.randrange(SIZE - 5000)
        length = rnd.randrange(1, 5000)
        asked[client.request(READ, offset, length)] = offset, length
    while asked:
        cookie, answer = client.answer()
        offset, length = asked.pop(cookie)
        assert answer.content(offset, length) == content[offset : offset + length]


class Broken:
    """A device on which nothing works."""

    size = 1 << 20
    read_only = False
    error: Exception = IoFailed("writing /secret/place failed")

    def fail(self, *_: object) -> None:
        raise self.error

    def read_cached(self, offset: int, view: memoryview) -> bool:
        return False

    def extents(self, offset: int, length: int) -> Iterator[Span]:
        yield Span(length, hole=False, zero=False)

    read_into = write = write_zeroes = trim = warm = flush = fail


@pytest.mark.parametrize(
    ("error", "told"),
    [(IoFailed("at /secret"), EIO), (NoSpace("at /secret"), ENOSPC), (ZeroDivisionError("/secret"), EIO)],
)
def test_what_fails_is_an_error_to_the_client_and_words_to_the_operator(
    tmp_path: Path, error: Exception, told: int
) -> None:
    device = Broken()
    device.error = error
    with serving(tmp_path, device) as served, Client(served.socket) as client:
        client.begin("disk")
        for command in (READ, WRITE, TRIM, ZEROES, CACHE):
            data = b"x" * 10 if command == WRITE else b""
            client.request(command, 0, 10, 0, data)
            magic, flags, kind, _, length = struct.unpack(">IHHQI", client.receive(20))
            payload = client.receive(length)
            assert (magic, flags, kind) == (0x668E33EF, 1, 0x8001)
            assert struct.unpack_from(">I", payload) == (told,)
            assert b"secret" not in payload
        assert len(served.messages) == 5
        assert all("secret" in message for message in served.messages)


def test_reads_in_order_are_read_ahead(disk: Disk, tmp_path: Path, content: bytes) -> None:
    watched = WatchedDevice(disk)
    with serving(tmp_path, watched) as served, Client(served.socket) as client:
        client.begin("disk")
        for at in range(0, MIB, 64 * KIB):
            assert client.read(at, 64 * KIB) == content[at : at + 64 * KIB]
    watched.close()
    assert disk.read_cached(MIB, memoryview(bytearray(SIZE - MIB)))
