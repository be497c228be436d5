"""HttpReader against servers that mean harm: every exchange ends soon, in data or in one line without the query."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from dataplane.errors import SourceUnavailable
from dataplane.readers.http import HttpReader
from tests.readers.http_client import CONTENT, open_and_read, open_reader, refused
from tests.readers.http_server import Behaviour, Handler, always, each, serving


def head_of(handler: Handler, *lines: str, status: str = "206 OK") -> bytes:
    """Return a good head with more lines at its end, and none for the length."""
    first, last = handler.range()
    good = [f"HTTP/1.1 {status}", f"Content-Range: bytes {first}-{last}/{len(CONTENT)}", 'ETag: "version-1"']
    return "\r\n".join([*good, *lines, "", ""]).encode("latin-1")


def saying(*parts: bytes | Callable[[Handler], bytes]) -> Behaviour:
    """Return a behaviour that sends bytes as they are and hangs up."""

    def behave(handler: Handler) -> bool:
        handler.close_connection = True
        for part in parts:
            handler.wfile.write(part if isinstance(part, bytes) else part(handler))
        return True

    return behave


def body(handler: Handler) -> bytes:
    first, last = handler.range()
    return CONTENT[first : last + 1]


# --------------------------------------------------------------------------------------------- answers that are none
@pytest.mark.parametrize(
    "garbage",
    [
        b"<html>s3cret</html>\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 -206 OK\r\n\r\n",
        b"HTTP/9.9 206 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"HTTP/1.1 206 " + b"s3cret" * 20_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
    ids=["http-0.9", "no-status", "words", "negative", "version", "icy", "blank", "long", "tls"],
)
def test_garbage_for_a_status_line_fails_after_three_attempts(garbage: bytes) -> None:
    with serving(CONTENT, saying(garbage)) as server:
        started = time.monotonic()
        refused(server, "not HTTP.*given up after 3 attempts|breaks off|answers -206", timeout_s=1)
        assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "bomb",
    [
        ["X-Long: " + "s3cret" * 20_000],
        [f"X-{number}: s3cret" for number in range(5000)],
        ["X-Folded: a", *[" s3cret"] * 5000],
    ],
    ids=["huge", "many", "folded"],
)
def test_header_bomb_is_refused(bomb: list[str]) -> None:
    with serving(CONTENT, saying(lambda handler: head_of(handler, *bomb))) as server:
        refused(server, "without end|breaks off", timeout_s=1)


def test_two_lengths_are_refused() -> None:
    lengths = saying(lambda handler: head_of(handler, "Content-Length: 65536", "Content-Length: 10"), body)
    with serving(CONTENT, lengths) as server:
        refused(server, "malformed.*given up after 3 attempts", timeout_s=1)


def test_one_garbled_answer_is_survived() -> None:
    with serving(CONTENT, each(saying(b"garbage\r\n\r\n"), None, saying(b"garbage\r\n\r\n"))) as server:
        assert open_and_read(server) == CONTENT


def test_bytes_behind_an_answer_do_not_become_the_next_one() -> None:
    def two(handler: Handler) -> bool:
        handler.answer()
        handler.wfile.write(head_of(handler, "Content-Length: 3") + b"bad")
        return True

    with serving(CONTENT, each(two, two)) as server:
        reader = open_reader(server)
        for at in (100_000, 200_000):
            time.sleep(0.02)
            assert reader.read_at(at, 1000) == CONTENT[at : at + 1000]
        reader.close()


# --------------------------------------------------------------------------------------------------- encoding tricks
@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["Content-Type: multipart/byteranges; boundary=s3cret"], "in several parts"),
        (["Content-Encoding: gzip, identity"], "identity was asked for"),
        (["Content-Encoding: deflate"], "identity was asked for"),
        (["Content-Encoding: identity, identity"], "identity was asked for"),
        (["Content-Range: bytes 0-1/2"], "does not tell the size|another range"),
        (["Content-Length: -1"], "contradicts"),
        (["Content-Length: 0x10000"], "contradicts"),
        (["Content-Length: 65536s3cret"], "contradicts"),
    ],
)
def test_head_that_contradicts_itself_is_refused(lines: list[str], words: str) -> None:
    with serving(CONTENT, saying(lambda handler: head_of(handler, *lines), body)) as server:
        refused(server, words, timeout_s=1)
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\n",
        b"-5\r\nhello",
        b"s3cret\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;" + b"s3cret" * 20_000 + b"\r\nhello\r\n",
        b"FFFFFFFFFFFFFFFFFFFF\r\nhello",
        b"0\r\n" + b"X-Trailer: s3cret\r\n" * 3000 + b"\r\n",
    ],
    ids=["letters", "negative", "word", "short", "extension", "endless", "trailers"],
)
def test_chunk_tricks_are_refused(chunks: bytes) -> None:
    answer = saying(lambda handler: head_of(handler, "Transfer-Encoding: chunked"), chunks)
    with serving(CONTENT, answer) as server:
        started = time.monotonic()
        refused(server, "ends its answer early|breaks off|not HTTP|too slow", timeout_s=0.5)
        assert time.monotonic() - started < 10


def test_chunked_answer_with_trailers_is_read() -> None:
    def chunked(handler: Handler) -> bytes:
        data = body(handler)
        return b"%x;ext=1\r\n%s\r\n0\r\nETag: other\r\nX-Trailer: 1\r\n\r\n" % (len(data), data)

    answer = saying(lambda handler: head_of(handler, "Transfer-Encoding: chunked"), chunked)
    with serving(CONTENT, each(answer, answer)) as server:
        assert open_and_read(server) == CONTENT


def test_answer_without_any_length_is_read_to_its_end() -> None:
    answer = saying(lambda handler: head_of(handler), body)
    with serving(CONTENT, each(answer, answer)) as server:
        assert open_and_read(server) == CONTENT


def test_endless_body_is_refused() -> None:
    def endless(handler: Handler) -> bytes:
        try:
            while True:
                handler.wfile.write(b"s3cret" * 10_000)
        except OSError:
            return b""

    with serving(CONTENT, saying(lambda handler: head_of(handler), endless)) as server:
        refused(server, "more bytes than it announced")
        assert len(server.seen) == 1


def test_web_page_instead_of_an_image_fails_at_once() -> None:
    def page(handler: Handler) -> None:
        handler.status(200, b"<html>log in, s3cret</html>", Content_Type="text/html; charset=utf-8")

    with serving(CONTENT, always(page)) as server:
        refused(server, "web page")
        assert len(server.seen) == 1


def test_page_that_appears_later_names_the_change() -> None:
    def other(handler: Handler) -> bool:
        handler.status(200, b"<html>", ETag='"page"')
        return True

    with serving(CONTENT, each(None, other)) as server:
        refused(server, "has changed")


def test_weak_etag_is_compared_and_never_sent() -> None:
    def change(handler: Handler) -> bool:
        handler.server.etag = 'W/"2"'
        return False

    with serving(CONTENT, each(None, None, change)) as server:
        server.etag, server.modified = 'W/"1"', None
        reader = open_reader(server)
        reader.read_at(100_000, 10)
        assert not {"If-Match", "If-Range", "If-Unmodified-Since"} & server.seen[1][2].keys()
        with pytest.raises(SourceUnavailable, match="has changed"):
            reader.read_at(200_000, 10)
        reader.close()


# ---------------------------------------------------------------------------------------------- dropped and stalled
def cut_after(size: int, *, reset: bool = False) -> Behaviour:
    """Return a behaviour that sends the first `size` bytes of a good answer and drops the connection."""

    def behave(handler: Handler) -> bool:
        data = body(handler)
        handler.wfile.write((head_of(handler, f"Content-Length: {len(data)}") + data)[:size])
        if reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        handler.close_connection = True
        handler.connection.close() if reset else handler.connection.shutdown(socket.SHUT_RDWR)
        return True

    return behave


@pytest.mark.parametrize("size", [0, 1, 9, 40, 100, 130, 1000, 65_000, 300_000])
@pytest.mark.parametrize("reset", [False, True])
def test_connection_dropped_at_any_place_is_resumed(size: int, reset: bool) -> None:
    drop = cut_after(size, reset=reset)
    with serving(CONTENT, each(drop, None, drop, drop)) as server:
        assert open_and_read(server, timeout_s=5) == CONTENT


@pytest.mark.parametrize("how", ["reset", "stall"])
def test_answers_that_all_break_off_still_bring_progress(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr("dataplane.readers.http_deadline.STALL_MAX_S", 0.15)

    def stall(handler: Handler) -> bool:
        data = body(handler)
        handler.wfile.write((head_of(handler, f"Content-Length: {len(data)}") + data)[:300_000])
        time.sleep(0.5)
        handler.close_connection = True
        return True

    with serving(CONTENT, always(stall) if how == "stall" else cut_after(300_000, reset=True)) as server:
        assert open_and_read(server, timeout_s=5) == CONTENT
        assert len(server.seen) < 9


@pytest.mark.parametrize("size", [0, 20, 100, 1000])
def test_stall_at_any_place_ends_within_the_deadline(size: int) -> None:
    release = threading.Event()

    def stall(handler: Handler) -> bool:
        data = body(handler)
        handler.wfile.write((head_of(handler, f"Content-Length: {len(data)}") + data)[:size])
        release.wait(5)
        handler.close_connection = True
        return True

    with serving(CONTENT, each(None, *[stall] * 10)) as server:
        started = time.monotonic()
        refused(server, "too slow|no answer in time", timeout_s=0.4)
        assert time.monotonic() - started < 1.5
        release.set()


@pytest.mark.parametrize("value", ["-5", "soon", "", "1e9", "\x80", "Mon, 99 Foo 2026 99:99:99 GMT", "9" * 5000])
def test_nonsense_in_retry_after(value: str) -> None:
    def busy(handler: Handler) -> bool:
        handler.close_connection = True
        handler.wfile.write(f"HTTP/1.1 503 No\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n".encode("latin-1"))
        return True

    with serving(CONTENT, each(busy)) as server:
        if value.startswith("999"):
            refused(server, "asks to wait")
        else:
            assert open_and_read(server) == CONTENT


def test_retry_after_in_the_past_does_not_wait() -> None:
    def busy(handler: Handler) -> bool:
        handler.status(503, Retry_After="Mon, 23 Nov 2020 19:00:00 GMT")
        return True

    with serving(CONTENT, each(busy)) as server:
        assert open_and_read(server) == CONTENT


# ------------------------------------------------------------------------------------------------- close() at all times
@contextmanager
def deaf(backlog: int = 0) -> Iterator[int]:
    """Listen on a port where nobody accepts and, the queue being full, no connection is made."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listener:
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(backlog + 2)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        time.sleep(0.05)
        yield port
        for one in waiting:
            one.close()


def close_soon(reader: HttpReader, work: Callable[[], object]) -> float:
    """Close `reader` while `work` runs in another thread; return how many seconds that took to end."""
    ended: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.3)
    started = time.monotonic()
    reader.close()
    thread.join(10)
    assert [type(error) for error in ended] == [SourceUnavailable]
    assert "closed while it was read" in str(ended[0])
    return time.monotonic() - started


def test_close_ends_a_connect() -> None:
    with deaf() as port:

        def redirect(handler: Handler) -> bool:
            handler.status(302, Location=f"http://127.0.0.1:{port}/x")
            return True

        with serving(CONTENT, each(None, redirect, redirect)) as server:
            reader = HttpReader(server.url, allow_source=["127.0.0.1"], timeout_s=30)
            assert close_soon(reader, lambda: reader.read_at(100_000, 10)) < 1


def test_close_ends_a_tls_handshake() -> None:
    silent = socket.create_server(("127.0.0.1", 0))

    def redirect(handler: Handler) -> bool:
        handler.status(302, Location=f"https://127.0.0.1:{silent.getsockname()[1]}/x")
        return True

    with silent, serving(CONTENT, each(None, redirect, redirect)) as server:
        reader = HttpReader(server.url, allow_source=["127.0.0.1"], timeout_s=30)
        assert close_soon(reader, lambda: reader.read_at(100_000, 10)) < 1


def test_close_ends_a_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    real, release = socket.getaddrinfo, threading.Event()

    def resolve(host: str, *others: object, **options: object) -> list[object]:
        if host == "slow.test":
            release.wait(5)
        return real(host, *others, **options)  # type: ignore[arg-type, return-value]

    def redirect(handler: Handler) -> bool:
        handler.status(302, Location="http://slow.test/x")
        return True

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with serving(CONTENT, each(None, redirect, redirect)) as server:
        reader = HttpReader(server.url, allow_source=["127.0.0.1"], timeout_s=30)
        thread = threading.Timer(0.2, reader.close)
        thread.start()
        started = time.monotonic()
        with pytest.raises(SourceUnavailable):
            reader.read_at(100_000, 10)
        assert time.monotonic() - started < 1.5
        release.set()


def test_close_ends_a_pause_and_a_wait_for_a_slot() -> None:
    def silent(handler: Handler) -> bool:
        time.sleep(1.5)
        return True

    with serving(CONTENT, each(None, *[silent] * 40)) as server:
        reader = open_reader(server, timeout_s=30)
        ended: list[str] = []

        def read() -> None:
            try:
                reader.read_at(100_000, 10)
            except SourceUnavailable as error:
                ended.append(str(error))

        threads = [threading.Thread(target=read) for _ in range(20)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        started = time.monotonic()
        reader.close()
        for thread in threads:
            thread.join()
        assert time.monotonic() - started < 1
        assert len(ended) == 20
        assert all("closed" in text for text in ended)


def test_lookup_without_an_answer_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(5) and [])
    started = time.monotonic()
    with pytest.raises(SourceUnavailable, match=r"http://slow.test/x: the host slow.test is not resolved in time"):
        HttpReader("http://slow.test/x?s3cret", timeout_s=0.3)
    assert time.monotonic() - started < 1
    release.set()
