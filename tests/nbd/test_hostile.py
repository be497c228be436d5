"""Clients that mean harm, or that break: the server goes on, and nothing they send makes it take much memory."""

from __future__ import annotations

import random
import resource
import struct
import time
from pathlib import Path

import pytest

from dataplane.disks.disk import Disk
from tests.nbd.client import ESHUTDOWN, GO, READ, SET_META, STRUCTURED, WRITE, Client, context_query, string
from tests.nbd.conftest import SIZE
from tests.nbd.serving import Served, serving

HANDSHAKE = (
    struct.pack(">I", 3)
    + b"IHAVEOPT"
    + struct.pack(">II", STRUCTURED, 0)
    + b"IHAVEOPT"
    + struct.pack(">II", SET_META, len(context_query("disk", "base:allocation")))
    + context_query("disk", "base:allocation")
    + b"IHAVEOPT"
    + struct.pack(">II", GO, 10)
    + string("disk")
    + b"\0\0"
)
REQUESTS = struct.pack(">IHHQQI", 0x25609513, 0, READ, 1, 0, 4096) + struct.pack(
    ">IHHQQI", 0x25609513, 0, WRITE, 2, 0, 4096
)


def assert_alive(served: Served, content: bytes) -> None:
    with Client(served.socket) as client:
        client.begin("disk")
        assert client.read(0, 4096) == content[:4096]
    assert served.messages == []


def test_connection_may_break_after_every_byte(served: Served, content: bytes) -> None:
    everything = HANDSHAKE + REQUESTS + b"part of the data"
    for length in range(0, len(everything), 3):
        with Client(served.socket) as client:
            client.send(everything[:length])
    assert_alive(served, content)


def test_bytes_of_any_kind_do_no_harm(served: Served, content: bytes) -> None:
    rnd = random.Random(11)
    everything = HANDSHAKE + REQUESTS
    for _ in range(150):
        hurt = bytearray(everything)
        for _ in range(rnd.randrange(1, 4)):
            hurt[rnd.randrange(len(hurt))] = rnd.randrange(256)
        with Client(served.socket) as client:
            try:
                client.send(bytes(hurt) + rnd.randbytes(rnd.randrange(200)))
            except OSError:
                continue
    assert_alive(served, content)


def test_request_with_a_wrong_magic_ends_the_connection(client: Client) -> None:
    client.begin("disk")
    client.send(struct.pack(">IHHQQI", 0x25609514, 0, READ, 1, 0, 4096))
    assert client.is_closed()


def test_option_with_a_wrong_magic_ends_the_connection(client: Client) -> None:
    client.greet().send(b"IHAVEOPS" + struct.pack(">II", GO, 0))
    assert client.is_closed()


def test_client_that_only_asks_is_sent_away(client: Client) -> None:
    client.greet()

    def ask_on() -> None:
        for _ in range(1000):
            client.option(99)

    with pytest.raises((EOFError, OSError)):
        ask_on()


def test_client_that_says_nothing_is_sent_away(tmp_path: Path, disk: Disk, content: bytes) -> None:
    with (
        serving(tmp_path, disk, negotiation_s=2) as served,
        Client(served.socket) as done,
        Client(served.socket) as silent,
        Client(served.socket) as slow,
    ):
        done.begin("disk")
        slow.greet()
        assert silent.is_closed()
        assert slow.is_closed()
        time.sleep(2.1)
        assert done.read(0, 4096) == content[:4096]  # in transmission a client may think as long as it likes


def test_there_are_only_so_many_connections(tmp_path: Path, disk: Disk, content: bytes) -> None:
    with serving(tmp_path, disk, connections_max=3) as served:
        clients = [Client(served.socket) for _ in range(3)]
        for client in clients:
            client.begin("disk")
        with Client(served.socket) as refused:
            assert refused.is_closed()
        clients[0].close()
        for _ in range(200):
            with Client(served.socket) as client:
                try:
                    client.begin("disk")
                    break
                except (EOFError, OSError):
                    time.sleep(0.05)
        else:
            pytest.fail("a connection that ended still counts")
        for client in clients[1:]:
            assert client.read(0, 4096) == content[:4096]
            client.close()


def test_client_that_never_reads_takes_bounded_memory(served: Served, content: bytes) -> None:
    """Sixty times the disk asked for, and nothing taken: what is answered ahead of the client is bounded."""
    with Client(served.socket) as greedy:
        greedy.begin("disk")
        greedy.socket.settimeout(2)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            for number in range(400):
                greedy.send(struct.pack(">IHHQQI", 0x25609513, 0, READ, number, 0, SIZE))
        except TimeoutError:
            pass
        assert_alive(served, content)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB


def test_server_that_ends_lets_requests_end(tmp_path: Path, disk: Disk) -> None:
    with serving(tmp_path, disk) as served, Client(served.socket) as client:
        client.begin("disk")
        assert client.write(0, b"x" * 4096) == 0
        assert served.server is not None
        for transmission in list(served.server._transmissions):
            transmission.shutting_down = True
        assert client.do(READ, 0, 4096).error == ESHUTDOWN
    assert not served.socket.exists()
    assert disk.read(0, 4096) == b"x" * 4096
