"""HttpReader against servers that fail, lie or change what they serve."""

from __future__ import annotations

import socket

import pytest

from dataplane.errors import InvalidImage, SourceUnavailable
from dataplane.readers.http import HEAD_SIZE, HttpReader
from tests.readers.http_client import CONTENT, open_and_read, open_reader, refused
from tests.readers.http_server import Changes, Handler, always, each, serving


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
        (101, "answers 101"),
        (103, "answers 103"),
        (300, "answers 300"),
        (304, "answers 304"),
        (305, "answers 305"),
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
            "bytes=65536",
            "bytes=66536",
            "bytes=67536",
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


def test_malformed_headers_do_not_bring_the_query_into_logs(caplog: pytest.LogCaptureFixture) -> None:
    def malformed(handler: Handler) -> bool:
        first, last = handler.range()
        head = f'HTTP/1.1 206 OK\r\nContent-Range: bytes {first}-{last}/{len(CONTENT)}\r\nETag: "version-1"\r\n'
        handler.wfile.write(f"{head}Content-Length: {last - first + 1}\r\nno colon in this line\r\n\r\n".encode())
        handler.wfile.write(CONTENT[first : last + 1])
        handler.close_connection = True
        return True

    with serving(CONTENT, each(malformed)) as server:
        assert open_and_read(server) == CONTENT
        assert "Failed to parse headers" in caplog.text


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
        ({"Content-Range": "bytes 65536-1000002/1000004"}, "has changed"),
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
