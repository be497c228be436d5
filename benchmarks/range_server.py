"""A small HTTP server for files with byte ranges and entity tags, on loopback, for the demo and the benchmarks."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType


class RangeServer:
    """Serves `files` (name: path) while it is entered; counts what it sent."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = dict(files)
        self.requests = 0
        self.sent_bytes = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    def url(self, name: str) -> str:
        """Return the address of the file `name`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{name}"

    def count(self, sent_bytes: int) -> None:
        """Note one answer with `sent_bytes` of content."""
        with self._lock:
            self.requests += 1
            self.sent_bytes += sent_bytes

    def __enter__(self) -> RangeServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = owner.files.get(self.path.lstrip("/"))
                if path is None:
                    self.send_error(HTTPStatus.NOT_FOUND)
                    return
                status = path.stat()
                span = asked_range(self.headers.get("Range", ""), status.st_size)
                if span is None:
                    self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                    self.send_header("Content-Range", f"bytes */{status.st_size}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                start, length = span
                partial = "Range" in self.headers
                self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
                if partial:
                    self.send_header("Content-Range", f"bytes {start}-{start + length - 1}/{status.st_size}")
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(length))
                self.send_header("ETag", f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"')
                self.end_headers()
                with path.open("rb") as file:
                    owner.count(self.connection.sendfile(file, start, length) if length else 0)

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # the client has what it wanted
                    super().handle()

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


@contextlib.contextmanager
def range_server(folder: Path) -> Iterator[str]:
    """Serve the files of a folder from a process of its own, which takes no turn of this one's; give its address."""
    command = [sys.executable, "-m", "benchmarks.range_server", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def asked_range(header: str, size: int) -> tuple[int, int] | None:
    """Return (start, length) of the one range that a Range header asks for, the whole without one, None if outside."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", header)
    if not match:
        return 0, size
    start = int(match[1])
    stop = min(size, int(match[2]) + 1 if match[2] else size)
    return (start, stop - start) if start < stop else None


def main() -> None:
    """Serve the files of the folder that is named, until standard input ends."""
    with RangeServer({path.name: path for path in Path(sys.argv[1]).iterdir()}) as server:
        print(server.url(""), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
