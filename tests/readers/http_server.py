"""A local HTTP server that serves ranges well, or badly in whatever way a test asks for."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ETAG = '"version-1"'
MODIFIED = "Mon, 23 Nov 2026 19:00:00 GMT"

Behaviour = Callable[["Handler"], bool]
"""Answers a request and returns True, or leaves it to the server and returns False."""

Changes = dict[str, str | None]
"""Headers of an answer to set or, with None, to drop."""


class Server(ThreadingHTTPServer):
    """Serves ``content`` at every path; ``behaviour`` may answer first. ``seen`` has method, path and headers."""

    daemon_threads = True

    def __init__(self, content: bytes, behaviour: Behaviour | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.behaviour = behaviour
        self.etag: str | None = ETAG
        self.modified: str | None = MODIFIED
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.scheme = "http"

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def host_port(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host_port}/images/disk.img?X-Signature=s3cret"

    def handle_error(self, *_: Any) -> None:
        """Clients that hang up are what many tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        if self.server.behaviour is None or not self.server.behaviour(self):
            self.answer()

    def do_HEAD(self) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        self.status(403)

    def range(self) -> tuple[int, int]:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert match is not None, self.headers["Range"]
        return int(match[1]), min(int(match[2]), len(self.server.content) - 1)

    def headers_for(self, first: int, last: int) -> dict[str, str]:
        headers = {
            "Content-Range": f"bytes {first}-{last}/{len(self.server.content)}",
            "Content-Length": str(last - first + 1),
        }
        if self.server.etag is not None:
            headers["ETag"] = self.server.etag
        if self.server.modified is not None:
            headers["Last-Modified"] = self.server.modified
        return headers

    def answer(self, changes: Changes | None = None, body: bytes | None = None) -> None:
        """Answer the range that was asked for; ``changes`` sets headers or, with None, drops them."""
        first, last = self.range()
        headers: dict[str, str] = self.headers_for(first, last)
        for name, value in (changes or {}).items():
            headers.pop(name, None)
            if value is not None:
                headers[name] = value
        self.send_response(206)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.content[first : last + 1] if body is None else body)

    def status(self, status: int, body: bytes = b"no s3cret here", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(
    content: bytes, behaviour: Behaviour | None = None, *, tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve ``content`` on a free port of 127.0.0.1 while the block runs."""
    server = Server(content, behaviour)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.scheme = "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def each(*steps: Behaviour | None) -> Behaviour:
    """Return a behaviour that takes one step a request; None, and everything after the last, is a good answer."""
    left = list(steps)
    lock = threading.Lock()

    def behave(handler: Handler) -> bool:
        with lock:
            step = left.pop(0) if left else None
        return step is not None and step(handler)

    return behave


def always(action: Callable[[Handler], object]) -> Behaviour:
    """Return a behaviour that answers every request with ``action``."""

    def behave(handler: Handler) -> bool:
        action(handler)
        return True

    return behave
