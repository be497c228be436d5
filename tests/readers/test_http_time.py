"""HttpReader against servers that are slow, busy or silent: no read outlives its budget."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate

import pytest

from dataplane.errors import SourceError, SourceUnavailable
from dataplane.readers import http_retry
from tests.readers.http_client import CONTENT, open_and_read, open_reader, refused
from tests.readers.http_server import Handler, always, each, serving


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
        assert time.monotonic() - started < 4


def test_silent_server_cannot_hold_on() -> None:
    with serving(CONTENT, always(lambda handler: time.sleep(1))) as server:
        refused(server, "too slow", timeout_s=0.3)


def test_steady_progress_renews_the_budget() -> None:
    def steady(handler: Handler) -> bool:
        first, last = handler.range()
        handler.answer(body=b"")
        for at in range(first, last + 1, 140_000):
            handler.wfile.write(CONTENT[at : min(at + 140_000, last + 1)])
            time.sleep(0.2)
        return True

    with serving(CONTENT, each(None, steady)) as server:
        # The body takes 1.6 s in all, and 0.4 s for each 256 KiB.
        assert open_and_read(server, timeout_s=1.2) == CONTENT


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
        assert time.monotonic() - started < 1.5
        assert [type(error) for error in caught] == [SourceUnavailable]
        with pytest.raises(SourceUnavailable, match="closed"):
            reader.read_at(70_000, 10)


def test_retries_end_within_the_budget() -> None:
    with serving(CONTENT, always(lambda handler: handler.status(503))) as server:
        started = time.monotonic()
        refused(server, r"answers 503; given up after \d+ attempts within 0.5 s", timeout_s=0.5)
        assert time.monotonic() - started < 4
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
        assert 0.9 <= time.monotonic() - started < 4.9


def test_retry_after_beyond_the_budget_fails_at_once() -> None:
    with serving(CONTENT, always(lambda handler: handler.status(429, Retry_After="3600"))) as server:
        started = time.monotonic()
        refused(server, "asks to wait 3600 s")
        assert time.monotonic() - started < 1
