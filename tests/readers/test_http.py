from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest

from dataplane.errors import InvalidImage, SourceError, SourceUnavailable, UsageError
from dataplane.readers import http_retry
from dataplane.readers.gather import gather
from dataplane.readers.http import HEAD_SIZE, HttpReader
from tests.readers.http_server import Behaviour, Changes, Handler, Server, always, each, serving

CONTENT = random.Random(7).randbytes(1_000_003)


def open_reader(server: Server, timeout_s: float = 2.0) -> HttpReader:
    return HttpReader(server.url, allow_source=[server.host_port], timeout_s=timeout_s)


def open_and_read(server: Server, timeout_s: float = 2.0) -> bytes:
    reader = open_reader(server, timeout_s)
    try:
        return reader.read_at(0, reader.size)
    finally:
        reader.close()


@pytest.fixture(autouse=True)
def no_secret_anywhere(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may see the query of its URL in a log, whatever happens."""
    caplog.set_level(logging.DEBUG)
    yield
    assert "s3cret" not in caplog.text


def refused(server: Server, words: str, timeout_s: float = 2.0) -> None:
    with pytest.raises(SourceUnavailable, match=words) as error:
        open_and_read(server, timeout_s)
    text = str(error.value)
    assert text.startswith(f"http://{server.host_port}/images/disk.img"), text
    assert "s3cret" not in text
    assert "\n" not in text
    chain: BaseException | None = error.value
    while chain is not None:
        assert "s3cret" not in repr(chain)
        chain = chain.__cause__


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
        assert len(server.seen) == 12


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


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "malformed"),
        (401, "credentials"),
        (403, "refused .403.; the URL may have expired"),
        (404, "nothing is there"),
        (410, "gone"),
        (416, "does not have the range"),
        (418, "answers 418"),
        (200, "ignores ranges"),
        (204, "answers 204"),
        (301, "redirects"),
        (302, "redirects"),
        (307, "redirects"),
        (308, "redirects"),
        (304, "redirects"),
    ],
)
def test_final_status_fails_at_once(status: int, words: str) -> None:
    def behave(handler: Handler) -> None:
        handler.status(status, Location="http://127.0.0.1:1/other?s3cret")

    with serving(CONTENT, always(behave)) as server:
        refused(server, words)
        assert len(server.seen) == 1


@pytest.mark.parametrize("status", [408, 423, 429, 500, 502, 503, 504])
def test_transient_status_is_tried_again(status: int) -> None:
    def fail(handler: Handler) -> bool:
        handler.status(status)
        return True

    with serving(CONTENT, each(fail, None, fail, None)) as server:
        assert open_and_read(server) == CONTENT
        assert len(server.seen) == 4


def test_retries_end_within_the_budget() -> None:
    with serving(CONTENT, always(lambda handler: handler.status(503))) as server:
        started = time.monotonic()
        refused(server, r"answers 503; given up after \d+ attempts within 0.5 s", timeout_s=0.5)
        assert time.monotonic() - started < 1.5
        assert 2 <= len(server.seen) <= http_retry.ATTEMPTS_MAX


def test_retries_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_retry, "_PAUSE_FIRST_S", 0.001)
    with serving(CONTENT, always(lambda handler: handler.status(503))) as server:
        refused(server, "given up after 10 attempts", timeout_s=30)
        assert len(server.seen) == http_retry.ATTEMPTS_MAX


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(form: str) -> None:
    asked_s = 1 if form == "seconds" else 2  # a date has whole seconds, so the wait is one second at least

    def busy(handler: Handler) -> bool:
        value = str(asked_s) if form == "seconds" else formatdate(time.time() + asked_s, usegmt=True)
        handler.status(429, Retry_After=value)
        return True

    with serving(CONTENT, each(busy)) as server:
        started = time.monotonic()
        assert open_and_read(server, timeout_s=5) == CONTENT
        assert 0.9 <= time.monotonic() - started < 3


def test_retry_after_beyond_the_budget_fails_at_once() -> None:
    with serving(CONTENT, always(lambda handler: handler.status(429, Retry_After="3600"))) as server:
        started = time.monotonic()
        refused(server, "asks to wait 3600 s")
        assert time.monotonic() - started < 1


def test_truncated_body_is_continued_where_it_ended() -> None:
    def cut(handler: Handler) -> bool:
        first, _ = handler.range()
        handler.answer(body=CONTENT[first : first + 1000])
        handler.close_connection = True
        return True

    with serving(CONTENT, each(cut, None, cut, cut)) as server:
        assert open_and_read(server) == CONTENT
        assert [headers["Range"].split("-")[0] for _, _, headers in server.seen] == [
            "bytes=0",
            "bytes=1000",
            "bytes=0",
            "bytes=1000",
            "bytes=2000",
        ]


def test_truncated_body_for_ever_fails() -> None:
    def cut(handler: Handler) -> None:
        handler.answer(body=b"")
        handler.close_connection = True

    with serving(CONTENT, always(cut)) as server:
        refused(server, "ends its answer early|breaks off", timeout_s=0.5)


def test_dropped_connection_is_tried_again() -> None:
    def drop(handler: Handler) -> bool:
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True
        return True

    with serving(CONTENT, each(drop, None, drop)) as server:
        assert open_and_read(server) == CONTENT


def test_not_http_at_all_fails() -> None:
    def babble(handler: Handler) -> None:
        handler.wfile.write(b"\x00\x01s3cret SSH-2.0\r\n\r\n")
        handler.close_connection = True

    with serving(CONTENT, always(babble)) as server:
        refused(server, "not HTTP", timeout_s=0.4)


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SourceUnavailable, match="connection is refused"):
        HttpReader(f"http://127.0.0.1:{port}/x?s3cret", allow_source=["127.0.0.1"], timeout_s=0.4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Content-Range": "bytes 0-65535/*"}, "does not tell the size"),
        ({"Content-Range": None}, "does not tell the size"),
        ({"Content-Range": "bytes 0-65535/1000003s3cret"}, "does not tell the size"),
        ({"Content-Range": "bytes 0-65535/99999999999999999999"}, "does not tell the size"),
        ({"Content-Range": "bytes 0-65534/1000003"}, "another range"),
        ({"Content-Range": "bytes 1-65536/1000003"}, "another range"),
        ({"Content-Range": "bytes 0-1000002/1000003"}, "another range"),
        ({"Content-Range": "bytes 0-65535/7"}, "another range"),
        ({"Content-Range": "bytes */1000003"}, "another range"),
        ({"Content-Range": "items 0-65535/1000003"}, "does not tell the size"),
        ({"Content-Length": "100"}, "contradicts"),
        ({"Content-Length": "1000000"}, "contradicts"),
        ({"Content-Encoding": "gzip"}, "identity was asked for"),
        ({"Content-Encoding": "s3cret"}, "identity was asked for"),
    ],
)
def test_lying_first_answer_is_refused(change: Changes, words: str) -> None:
    with serving(CONTENT, always(lambda handler: handler.answer(change))) as server:
        refused(server, words)
        assert len(server.seen) == 1


def test_size_out_of_bounds_is_invalid() -> None:
    answer = always(lambda handler: handler.answer({"Content-Range": "bytes 0-65535/9223372036854775807"}))
    with serving(CONTENT, answer) as server, pytest.raises(InvalidImage, match="at most"):
        open_reader(server)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ETag": '"version-2"'}, "has changed"),
        ({"ETag": None}, "has changed"),
        ({"Content-Range": "bytes 0-1000002/1000004"}, "has changed"),
        ({"Content-Range": "bytes 1-1000002/1000003"}, "another range"),
        ({"Content-Range": None}, "another range"),
        ({"Content-Range": "bytes */1000003"}, "another range"),
        ({"Content-Encoding": "br"}, "identity was asked for"),
    ],
)
def test_lying_later_answer_is_refused(change: Changes, words: str) -> None:
    def lie(handler: Handler) -> bool:
        handler.answer(change)
        return True

    with serving(CONTENT, each(None, lie)) as server:
        refused(server, words)
        assert len(server.seen) == 2


def test_server_that_notices_the_change_itself() -> None:
    def precondition(handler: Handler) -> bool:
        handler.status(412)
        return True

    with serving(CONTENT, each(None, precondition)) as server:
        refused(server, "has changed since it was opened")


def test_server_that_forgets_ranges_later() -> None:
    def whole(handler: Handler) -> bool:
        handler.status(200, CONTENT)
        return True

    with serving(CONTENT, each(None, whole)) as server:
        refused(server, "ignores ranges")


@pytest.mark.parametrize("etag", [None, 'W/"weak"', "bare", '"'])
def test_last_modified_is_pinned_without_a_strong_etag(etag: str | None) -> None:
    def later(handler: Handler) -> bool:
        handler.server.modified = "Tue, 24 Nov 2026 19:00:00 GMT"
        return False

    with serving(CONTENT) as server:
        server.etag = etag
        assert open_and_read(server) == CONTENT
        assert server.seen[1][2]["If-Unmodified-Since"] == "Mon, 23 Nov 2026 19:00:00 GMT"
    with serving(CONTENT, each(None, later)) as server:
        server.etag = etag
        refused(server, "has changed")


def test_without_validators_the_size_is_pinned() -> None:
    def grow(handler: Handler) -> bool:
        handler.server.content += b"x"
        return False

    with serving(CONTENT) as server:
        server.etag = server.modified = None
        assert open_and_read(server) == CONTENT
    with serving(CONTENT, each(None, grow)) as server:
        server.etag = server.modified = None
        refused(server, "has changed")


def test_chunked_answer_is_read() -> None:
    def chunked(handler: Handler) -> bool:
        first, last = handler.range()
        handler.answer({"Content-Length": None, "Transfer-Encoding": "chunked"}, b"")
        for at in range(first, last + 1, 10_000):
            piece = CONTENT[at : min(at + 10_000, last + 1)]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")
        return True

    with serving(CONTENT, each(chunked, chunked)) as server:
        assert open_and_read(server) == CONTENT


def test_chunked_answer_that_is_too_long_is_refused() -> None:
    def chunked(handler: Handler) -> None:
        handler.answer({"Content-Length": None, "Transfer-Encoding": "chunked"}, b"")
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (HEAD_SIZE + 1, CONTENT[: HEAD_SIZE + 1]))

    with serving(CONTENT, always(chunked)) as server:
        refused(server, "more bytes than it announced")


def drip(handler: Handler, prefix: bytes, byte: bytes, limit_s: float = 20) -> None:
    """Send ``prefix``, then a byte now and then, until the client has had enough."""
    handler.close_connection = True
    started = time.monotonic()
    try:
        handler.wfile.write(prefix)
        while time.monotonic() - started < limit_s:
            handler.wfile.write(byte)
            time.sleep(0.02)
    except OSError:
        pass


GOOD_HEADERS = b'HTTP/1.1 206 OK\r\nContent-Range: bytes 0-65535/1000003\r\nETag: "version-1"\r\n'


@pytest.mark.parametrize(
    ("prefix", "byte"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 206 OK\r\nX-Slow: ", b"x"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (GOOD_HEADERS + b"Content-Length: 65536\r\n\r\n", b"x"),
        (GOOD_HEADERS + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        (GOOD_HEADERS + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["status", "headers", "continue", "body", "chunk-size", "chunks"],
)
def test_slow_loris_cannot_hold_on(prefix: bytes, byte: bytes) -> None:
    with serving(CONTENT, always(lambda handler: drip(handler, prefix, byte))) as server:
        started = time.monotonic()
        refused(server, "too slow|no answer in time|given up", timeout_s=0.5)
        assert time.monotonic() - started < 1.5


def test_silent_server_cannot_hold_on() -> None:
    with serving(CONTENT, always(lambda handler: time.sleep(1))) as server:
        refused(server, "too slow", timeout_s=0.3)


def test_steady_progress_renews_the_budget() -> None:
    def steady(handler: Handler) -> bool:
        first, last = handler.range()
        handler.answer(body=b"")
        for at in range(first, last + 1, 140_000):
            handler.wfile.write(CONTENT[at : min(at + 140_000, last + 1)])
            time.sleep(0.12)
        return True

    with serving(CONTENT, each(None, steady)) as server:
        # The body takes 0.96 s in all, and 0.24 s for each 256 KiB.
        assert open_and_read(server, timeout_s=0.6) == CONTENT


def test_close_ends_a_read_under_way() -> None:
    def silent(handler: Handler) -> bool:
        time.sleep(2)
        return False

    with serving(CONTENT, each(None, silent)) as server:
        reader = open_reader(server, timeout_s=30)
        caught: list[BaseException] = []

        def read() -> None:
            try:
                reader.read_at(0, reader.size)
            except SourceError as error:
                caught.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        while len(server.seen) < 2:
            time.sleep(0.01)
        time.sleep(0.05)
        started = time.monotonic()
        reader.close()
        thread.join()
        assert time.monotonic() - started < 1
        assert [type(error) for error in caught] == [SourceUnavailable]
        with pytest.raises(SourceUnavailable, match="closed"):
            reader.read_at(70_000, 10)


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
