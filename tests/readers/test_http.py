"""HttpReader against servers that behave, and what it connects to at all."""

from __future__ import annotations

import os
import random
import socket
import threading
import time

import pytest

from dataplane.errors import InvalidImage, SourceUnavailable, UsageError
from dataplane.readers.gather import gather
from dataplane.readers.http import HEAD_SIZE, HttpReader
from dataplane.readers.http_answer import read_pin
from tests.readers.http_client import CONTENT, open_and_read, open_reader, refused
from tests.readers.http_server import ETAG, MODIFIED, Behaviour, Server, always, serving


def test_read_whole_and_pieces() -> None:
    with serving(CONTENT) as server:
        reader = open_reader(server)
        assert reader.size == len(CONTENT)
        assert reader.name == f"http://{server.host_port}/images/disk.img"
        assert reader.fileno() is None
        assert reader.read_at(0, len(CONTENT)) == CONTENT
        for offset, length in [(0, 10), (65_530, 20), (70_000, 1), (1_000_000, 3), (5, 0), (1_000_003, 0)]:
            assert reader.read_at(offset, length) == CONTENT[offset : offset + length]
        assert bytes(reader.data_ranges(0, 100, 1).cast("B")) == (0).to_bytes(8, "little") + (100).to_bytes(8, "little")
        reader.check_unchanged()
        reader.close()
        reader.close()


def test_requests_are_conditional_ranged_gets_only() -> None:
    with serving(CONTENT) as server:
        open_and_read(server)
        assert {method for method, _, _ in server.seen} == {"GET"}
        assert {path for _, path, _ in server.seen} == {"/images/disk.img?X-Signature=s3cret"}
        first, *later = [headers for _, _, headers in server.seen]
        assert first["Range"] == "bytes=0-65535"
        assert "If-Match" not in first
        assert later
        for headers in later:
            assert headers["If-Match"] == '"version-1"'
        for headers in (first, *later):
            assert headers["Accept-Encoding"] == "identity"
            assert headers["Host"] == server.host_port
            assert headers.keys() <= {"Host", "Accept", "Accept-Encoding", "User-Agent", "Range", "If-Match"}


def test_head_of_the_object_is_kept() -> None:
    with serving(CONTENT) as server:
        reader = open_reader(server)
        reader.read_at(0, HEAD_SIZE)
        reader.read_at(512, 512)
        assert len(server.seen) == 1
        reader.close()


def test_long_reads_take_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.readers.http.REQUEST_SIZE_MAX", 100_000)
    with serving(CONTENT) as server:
        assert open_and_read(server) == CONTENT
        assert len(server.seen) == 11  # the first 64 KiB are not asked for again


@pytest.mark.parametrize("size", [1, 511, HEAD_SIZE - 1, HEAD_SIZE, HEAD_SIZE + 1])
def test_sizes_about_the_first_request(size: int) -> None:
    with serving(CONTENT[:size]) as server:
        assert open_and_read(server) == CONTENT[:size]


def test_read_past_end_is_invalid() -> None:
    with serving(CONTENT) as server:
        reader = open_reader(server)
        with pytest.raises(InvalidImage, match="cut short") as error:
            reader.read_at(1_000_000, 4)
        assert "s3cret" not in str(error.value)
        reader.close()


@pytest.mark.parametrize(
    "behaviour",
    [
        always(lambda handler: handler.status(200, b"")),
        always(lambda handler: handler.status(416, b"", Content_Range="bytes */0")),
    ],
)
def test_empty_object_has_size_0(behaviour: Behaviour) -> None:
    with serving(b"", behaviour) as server:
        reader = open_reader(server)
        assert (reader.size, reader.read_at(0, 0)) == (0, b"")
        reader.close()


def test_many_threads_share_few_connections() -> None:
    with serving(CONTENT) as server:
        reader = open_reader(server, timeout_s=20)
        wrong: list[int] = []

        def read(seed: int) -> None:
            draw = random.Random(seed)
            for _ in range(10):
                at = draw.randrange(len(CONTENT) - 5000)
                if reader.read_at(at, 5000) != CONTENT[at : at + 5000]:
                    wrong.append(at)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        reader.close()


def test_gather_asks_for_near_pieces_at_once() -> None:
    with serving(CONTENT) as server:
        reader = open_reader(server)
        offsets = [900_000, 70_000, 80_000, 901_000, 0]
        assert gather(reader, offsets, 512) == b"".join(CONTENT[at : at + 512] for at in offsets)
        assert len(server.seen) == 3
        reader.close()


def test_loopback_is_refused_unless_allowed() -> None:
    with serving(CONTENT) as server:
        for allow in ([], ["127.0.0.1:1"], ["localhost"], ["example.org"]):
            with pytest.raises(SourceUnavailable, match="loopback address, which is refused") as error:
                HttpReader(server.url, allow_source=allow)
            assert "s3cret" not in str(error.value)
        assert server.seen == []
        HttpReader(server.url, allow_source=["127.0.0.1"]).close()


@pytest.mark.parametrize(
    "host",
    ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "LocalHost", "0.0.0.0", "[::ffff:127.0.0.1]"],
)
def test_spellings_of_loopback_are_refused(host: str) -> None:
    with serving(CONTENT) as server:
        with pytest.raises(SourceUnavailable, match="address, which is refused"):
            HttpReader(f"http://{host}:{server.port}/x?s3cret", timeout_s=1)
        assert server.seen == []


def test_name_that_resolves_elsewhere_later_keeps_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [("127.0.0.1", 0)]

    def resolve_once(host: str, port: int, *_: object, **__: object) -> list[object]:
        if host == "rebinding.test":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", answers.pop())]
        return real(host, port, *_, **__)  # type: ignore[arg-type, return-value]

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve_once)
    with serving(CONTENT) as server:
        url = f"http://rebinding.test:{server.port}/x"
        reader = HttpReader(url, allow_source=["rebinding.test"], timeout_s=2)
        assert reader.read_at(0, len(CONTENT)) == CONTENT
        assert server.seen[0][2]["Host"] == f"rebinding.test:{server.port}"
        reader.close()


def test_second_address_is_tried_when_the_first_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *_: object, **__: object) -> list[object]:
        if host == "two.test":
            return [(0, 0, 0, "", ("127.0.0.2", port)), (0, 0, 0, "", ("127.0.0.1", port))]
        return real(host, port, *_, **__)  # type: ignore[arg-type, return-value]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with serving(CONTENT) as server:
        reader = HttpReader(f"http://two.test:{server.port}/x", allow_source=["two.test"], timeout_s=2)
        assert reader.read_at(0, len(CONTENT)) == CONTENT
        reader.close()


def test_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", os.devnull)
    with serving(CONTENT) as server:
        assert open_and_read(server) == CONTENT
        assert all("Authorization" not in headers for _, _, headers in server.seen)


def test_plain_http_is_refused_when_not_allowed() -> None:
    with serving(CONTENT) as server:
        with pytest.raises(SourceUnavailable, match="plain http is refused"):
            HttpReader(server.url, allow_source=[server.host_port], allow_http=False)
        assert server.seen == []


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_time_limit_out_of_range(timeout_s: float) -> None:
    with pytest.raises(UsageError, match="time limit"):
        HttpReader("http://host/x", timeout_s=timeout_s)


def test_failed_opening_leaves_no_descriptor() -> None:
    with serving(CONTENT, always(lambda handler: handler.status(404))) as server:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            refused(server, "nothing is there")
        time.sleep(0.1)
        assert len(os.listdir("/proc/self/fd")) <= before + 1


def version_of(server: Server, query: str = "X-Amz-Signature=s3cret") -> str | None:
    reader = HttpReader(server.url.partition("?")[0] + f"?{query}", allow_source=[server.host_port])
    try:
        return reader.version()
    finally:
        reader.close()


def test_version_is_that_of_the_object_whoever_signs_and_not_of_others() -> None:
    with serving(CONTENT) as server:
        first = version_of(server)
        assert first is not None
        assert "s3cret" not in first
        assert version_of(server, "X-Amz-Signature=other") == first
        assert version_of(server, "object=2") != first
        server.etag = '"version-2"'
        assert version_of(server) != first
        server.etag = ETAG
        server.content = b"!" + CONTENT[1:]  # under the same name
        assert version_of(server) != first
        server.content = CONTENT + b"!"
        assert version_of(server) != first


@pytest.mark.parametrize(
    ("modified", "date", "known"),
    [
        (MODIFIED, "Mon, 23 Nov 2026 19:01:00 GMT", True),
        (MODIFIED, "Mon, 23 Nov 2026 19:00:59 GMT", False),  # it may have changed since within that second
        (MODIFIED, "Mon, 23 Nov 2026 18:00:00 GMT", False),
        (MODIFIED, "yesterday", False),
        (MODIFIED, None, False),
        ("yesterday", "Mon, 23 Nov 2026 19:01:00 GMT", False),
        (MODIFIED, "Mon, 23 Nov 2026 19:01:00", False),
        (None, "Mon, 23 Nov 2026 19:01:00 GMT", False),
    ],
)
def test_version_by_modification_needs_a_time_long_past(modified: str | None, date: str | None, known: bool) -> None:
    headers = {"Content-Range": "bytes 0-9/10", "ETag": 'W/"1"'}
    headers |= {name: value for name, value in (("Last-Modified", modified), ("Date", date)) if value is not None}
    pin = read_pin("name", headers)
    assert (pin.version() is not None) == known
    assert read_pin("name", {**headers, "ETag": '"1"'}).version() == '10 "1"'
    assert read_pin("name", {**headers, "ETag": 'W/"2"'}).version() != pin.version() or not known
