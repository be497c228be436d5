"""A web server for tests: files with ranges and ETags, as slow as a test wants them, and misbehaviour on purpose."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

BLOCK_SIZE = 64 << 10


@dataclass
class Web:
    """What is served, by path. `rates` are bytes a second.

    A request that touches the bytes that `hanging` has for its path is not answered.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    hanging: dict[str, range] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    ranges: list[tuple[int, int]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        """Return the URL of a path that begins with a slash."""
        return f"http://{self.address}{path}"

    def add(self, path: str, content: bytes, *, rate: float | None = None) -> str:
        """Serve `content` under `path`; return its URL."""
        self.files[path] = content
        if rate is not None:
            self.rates[path] = rate
        return self.url(path)


@lru_cache(maxsize=8)
def etag(content: bytes) -> str:
    """Return the entity tag of a file, made once: who asks for a large one by ranges asks often."""
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


@contextmanager
def serving() -> Iterator[Web]:
    """Run a web server on a free port of this machine."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            web.requests.append(self.path)
            if path not in web.files:
                self._short(web.statuses.get(path, 404))
                return
            self._range(path, web.files[path])

        def _short(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _range(self, path: str, content: bytes) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last = (int(wanted[1]), min(int(wanted[2]), len(content) - 1)) if wanted else (0, len(content) - 1)
            web.ranges.append((first, last))
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.send_header("Content-Length", str(last - first + 1))
            self.send_header("ETag", etag(content))
            self.end_headers()
            held = web.hanging.get(path, range(0))
            if first < held.stop and last >= held.start:
                web.released.wait(60)
                self.close_connection = True
                return
            for offset in range(first, last + 1, BLOCK_SIZE):
                block = content[offset : min(offset + BLOCK_SIZE, last + 1)]
                if (rate := web.rates.get(path)) is not None:
                    time.sleep(len(block) / rate)
                self.wfile.write(block)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # clients that go away are what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    web.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.released.set()
        server.shutdown()
        server.server_close()
