"""The haggling, option by option, as the protocol document has it."""

from __future__ import annotations

import ssl
import struct
from pathlib import Path

import pytest

from dataplane.disks.disk import Disk
from dataplane.nbd.exports import Export
from tests.nbd.client import (
    ABORT,
    ACK,
    GO,
    INFO,
    INFO_REPLY,
    INVALID,
    LIST,
    LIST_META,
    META,
    POLICY,
    SERVER,
    SET_META,
    STARTTLS,
    STATUS,
    STRUCTURED,
    TLS_REQD,
    TOO_BIG,
    UNKNOWN,
    UNSUP,
    Client,
    context_query,
    string,
)
from tests.nbd.conftest import SIZE
from tests.nbd.serving import Served, serving
from tests.nbd.tls import client_context, server_context

HAS_FLAGS, READ_ONLY, FLUSH, FUA, TRIM, ZEROES, DF, MULTI, CACHE, FAST = 1, 2, 4, 8, 32, 64, 128, 256, 1024, 2048
WRITABLE = HAS_FLAGS | FLUSH | FUA | TRIM | ZEROES | DF | MULTI | CACHE | FAST


@pytest.mark.parametrize(("flags", "zeroes"), [(1, 124), (3, 0)])
def test_export_name_answers_without_a_reply_header(client: Client, flags: int, zeroes: int, content: bytes) -> None:
    client.greet(flags).ask(1, b"disk")
    size, transmission = struct.unpack(">QH", client.receive(10))
    assert (size, transmission) == (SIZE, WRITABLE)
    assert client.receive(zeroes) == bytes(zeroes)
    assert client.read(0, 100) == content[:100]


def test_export_name_that_is_none_ends_the_connection(client: Client) -> None:
    client.greet().ask(1, b"other")
    assert client.is_closed()


@pytest.mark.parametrize("flags", [0, 2, 4 | 1, 1 << 31 | 1])
def test_client_flags_that_are_not_known_end_the_connection(client: Client, flags: int) -> None:
    client.greet(flags)
    assert client.is_closed()


def test_info_tells_everything_and_goes_on_haggling(client: Client) -> None:
    client.greet()
    replies = client.option(INFO, string("disk") + struct.pack(">4H", 3, 1, 2, 3))
    assert [kind for kind, _ in replies] == [INFO_REPLY] * 4 + [ACK]
    told = {data[:2]: data[2:] for kind, data in replies if kind == INFO_REPLY}
    assert struct.unpack(">QH", told[b"\0\0"]) == (SIZE, WRITABLE)
    assert told[b"\0\1"] == b"disk"
    assert told[b"\0\2"] == b"a disk"
    assert struct.unpack(">III", told[b"\0\3"]) == (1, 4096, 32 << 20)
    assert client.option(LIST) == [(SERVER, string("disk")), (ACK, b"")]


def test_go_begins_transmission(client: Client, content: bytes) -> None:
    client.greet()
    assert client.go("disk") == (SIZE, WRITABLE)
    assert client.read(1000, 1000) == content[1000:2000]


def test_empty_name_is_the_default(client: Client) -> None:
    client.greet()
    assert client.go("")[0] == SIZE


@pytest.mark.parametrize("option", [INFO, GO])
def test_export_that_is_none_is_an_error(client: Client, option: int) -> None:
    client.greet()
    ((kind, _),) = client.option(option, string("other") + b"\0\0")
    assert kind == UNKNOWN
    assert client.go("disk")[0] == SIZE


@pytest.mark.parametrize(
    ("option", "data"),
    [
        (LIST, b"x"),
        (STRUCTURED, b"x"),
        (STARTTLS, b"x"),
        (GO, b""),
        (GO, b"\0\0\0"),
        (GO, string("disk")),
        (GO, string("disk") + b"\0\1"),
        (GO, string("disk") + b"\0\0\0"),
        (GO, struct.pack(">I", 5) + b"disk\0\0"),
        (GO, struct.pack(">I", 2**32 - 1) + b"disk\0\0"),
        (GO, struct.pack(">I", 2) + b"\xff\xfe\0\0"),
        (GO, string("x" * 4097) + b"\0\0"),
        (SET_META, context_query("disk", "base:allocation")),  # before structured replies
        (LIST_META, context_query("disk")),
    ],
)
def test_options_that_make_no_sense_are_invalid(client: Client, option: int, data: bytes) -> None:
    client.greet()
    replies = client.option(option, data)
    assert [kind for kind, _ in replies] == [INVALID]
    assert client.go("disk")[0] == SIZE


@pytest.mark.parametrize("option", [0, 4, 11, 77, 2**32 - 1])
def test_unknown_options_are_unsupported(client: Client, option: int) -> None:
    client.greet()
    assert client.option(option, b"whatever")[0][0] == UNSUP
    assert client.go("disk")[0] == SIZE


def test_abort_is_acknowledged(client: Client) -> None:
    client.greet()
    assert client.option(ABORT) == [(ACK, b"")]
    assert client.is_closed()


def test_long_options_are_too_big_and_longer_ones_end_the_connection(client: Client, served: Served) -> None:
    client.greet()
    assert client.option(GO, bytes((64 << 10) + 1))[0][0] == TOO_BIG
    assert client.go("disk")[0] == SIZE
    with Client(served.socket) as other:
        other.greet().send(b"IHAVEOPT" + struct.pack(">II", GO, 2**32 - 1))
        assert other.is_closed()


def test_meta_contexts_are_listed_and_set(client: Client) -> None:
    client.greet()
    client.option(STRUCTURED)
    client.structured = True
    offered = (META, b"\0\0\0\0base:allocation")
    assert client.option(LIST_META, context_query("disk")) == [offered, (ACK, b"")]
    assert client.option(LIST_META, context_query("disk", "base:")) == [offered, (ACK, b"")]
    assert client.option(LIST_META, context_query("disk", "qemu:")) == [(ACK, b"")]
    assert client.option(LIST_META, context_query("other"))[0][0] == UNKNOWN
    assert client.option(SET_META, context_query("disk", "base:", "other:x")) == [(ACK, b"")]
    chosen = [(META, b"\0\0\0\1base:allocation"), (ACK, b"")]
    assert client.option(SET_META, context_query("disk", "x:y", "base:allocation")) == chosen
    assert client.option(SET_META, context_query("disk", *["x:y"] * 65))[0][0] == INVALID
    client.go("disk")
    assert client.do(STATUS, 0, 4096).error == 22  # the last question, which failed, replaced the one before


def test_context_of_another_export_does_not_count(tmp_path: Path, disk: Disk) -> None:
    class Two:
        async def find(self, name: str) -> Export | None:
            return Export(name=name, device=disk) if name in "ab" else None

        def names(self) -> list[str]:
            return ["a", "b"]

    with serving(tmp_path, Two()) as served, Client(served.socket) as client:
        client.greet()
        assert client.option(LIST) == [(SERVER, string("a")), (SERVER, string("b")), (ACK, b"")]
        client.option(STRUCTURED)
        client.structured = True
        client.option(SET_META, context_query("a", "base:allocation"))
        client.go("b")
        assert client.do(STATUS, 0, 4096).error == 22


def test_exports_are_closed_when_nobody_uses_them(tmp_path: Path, disk: Disk) -> None:
    opened: list[str] = []
    closed: list[str] = []

    class Counted:
        async def find(self, name: str) -> Export | None:
            opened.append(name)
            return Export(name=name, device=disk, closed=lambda: closed.append(name))

        def names(self) -> list[str]:
            return []

    with serving(tmp_path, Counted()) as served:
        with Client(served.socket) as client:
            client.greet()
            client.option(INFO, string("a") + b"\0\0")
            client.go("b")
            assert client.read(0, 4096)
            assert (opened, closed) == (["a", "b"], ["a"])
        with Client(served.socket) as client:
            client.greet()
            client.option(INFO, string("c") + b"\0\0")
            client.option(ABORT)
            assert client.is_closed()
    assert sorted(closed) == ["a", "b", "c"]


# ---------------------------------------------------------------------------------------------- encryption
def test_without_a_certificate_encryption_is_refused(client: Client) -> None:
    client.greet()
    assert client.option(STARTTLS)[0][0] == POLICY
    assert client.go("disk")[0] == SIZE


def test_with_a_certificate_nothing_goes_without_it(tmp_path: Path, disk: Disk, content: bytes) -> None:
    with serving(tmp_path, disk, tls=server_context(tmp_path)) as served:
        with Client(("127.0.0.1", served.port)) as client:
            client.greet()
            for option in (LIST, INFO, GO, STRUCTURED, SET_META, 77):
                assert client.option(option, string("disk") + b"\0\0")[0][0] == TLS_REQD
            client.start_tls(client_context(tmp_path), "localhost")
            client.option(STRUCTURED)
            client.structured = True
            assert client.option(STARTTLS)[0][0] == INVALID
            client.go("disk")
            assert client.read(0, SIZE) == content
            data = b"z" * (1 << 20)
            assert client.write(4096, data) == 0
            assert client.read(4096, 1 << 20) == data
        with Client(("127.0.0.1", served.port)) as client:
            client.greet().ask(1, b"disk")
            assert client.is_closed()
        with Client(("127.0.0.1", served.port)) as client:
            client.greet()
            assert client.option(ABORT) == [(ACK, b"")]


def test_what_was_agreed_before_encryption_is_forgotten(tmp_path: Path, disk: Disk) -> None:
    """And what is sent along with the request for encryption, in the clear, is never taken for what comes after it."""
    with serving(tmp_path, disk, tls=server_context(tmp_path)) as served:
        with Client(("127.0.0.1", served.port)) as client:
            client.greet()
            option = b"IHAVEOPT" + struct.pack(">II", STARTTLS, 0)
            client.send(option + b"IHAVEOPT" + struct.pack(">II", STRUCTURED, 0))
            assert client.is_closed()
        with Client(("127.0.0.1", served.port)) as client:
            client.greet()
            with pytest.raises((ssl.SSLError, OSError)):
                client.start_tls(ssl.create_default_context(), "localhost")  # which does not know the certificate
