"""Imports of a qcow2 image over HTTP: beside the same file from disk, and over a link with latency and a bandwidth."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from benchmarks import inputs
from benchmarks.beside import THREADS, Beside, Goal
from dataplane.formats.probe import open_source
from dataplane.ingest.importing import ImportResult, import_image
from dataplane.limits import KIB
from dataplane.store.store import Store

LOCAL_GOAL = Goal("import of qcow2 over local HTTP beside the same file from disk", "at least", 0.8)
LINK_GOAL = Goal("import over 1 Gbit/s with 50 ms a request, of the link's rate", "at least", 0.6)

LATENCY_S = 0.05
LINK_RATE = 125_000_000
"""Bytes per second of the simulated link, all connections together."""

_SLICE_SIZE = 64 * KIB
"""Bytes that are sent at once over the simulated link."""


def serve(path: str, listener: socket.socket, latency_s: float, rate: float | None, sent: Synchronized[int]) -> None:
    """Answer ranged GETs with parts of the file at `path`, a thread for each connection; never returns.

    Written for little work a byte (sendfile), so that what is measured is the client. `rate` is that of the link that
    all connections share, in bytes per second; each request waits `latency_s` before it is answered.
    """
    file = os.open(path, os.O_RDONLY)
    size = os.fstat(file).st_size
    link = Link(rate)

    def talk(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        while piece := connection.recv(64 * KIB):
            received += piece
            while b"\r\n\r\n" in received:
                head, received = received.split(b"\r\n\r\n", 1)
                asked = re.search(rb"\r\nRange: bytes=(\d+)-(\d+)", head)
                assert asked is not None, head
                first, last = int(asked[1]), min(int(asked[2]), size - 1)
                time.sleep(latency_s)
                connection.sendall(
                    b'HTTP/1.1 206 Partial Content\r\nETag: "1"\r\nContent-Length: %d\r\n'
                    b"Content-Range: bytes %d-%d/%d\r\n\r\n" % (last + 1 - first, first, last, size)
                )
                link.send(connection, file, first, last + 1)
                with sent.get_lock():
                    sent.value += last + 1 - first

    def guarded(connection: socket.socket) -> None:
        try:
            talk(connection)
        except OSError:  # the client has gone
            connection.close()

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=guarded, args=(connection,), daemon=True).start()


class Link:
    """What all connections send over: as fast as it goes, or `rate` bytes per second in slices that take turns."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def send(self, connection: socket.socket, file: int, first: int, end: int) -> None:
        """Send bytes [first, end) of `file`."""
        while first < end:
            count = end - first if self._rate is None else min(_SLICE_SIZE, end - first)
            if self._rate is not None:
                with self._lock:
                    self._free_at = max(self._free_at, time.monotonic() - 0.01) + count / self._rate
                    wait_s = self._free_at - time.monotonic()
                if wait_s > 0:
                    time.sleep(wait_s)
            while count > 0:
                done = os.sendfile(connection.fileno(), file, first, count)
                first, count = first + done, count - done


@contextmanager
def serving(path: Path, *, latency_s: float = 0.0, rate: float | None = None) -> Iterator[tuple[str, Any]]:
    """Serve `path` from a process of its own while the block runs; yield its URL and the count of bytes sent."""
    spawn = multiprocessing.get_context("spawn")
    sent = spawn.Value("q", 0)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        process = spawn.Process(target=serve, args=(str(path), listener, latency_s, rate, sent), daemon=True)
        process.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/disk.qcow2", sent
        finally:
            process.terminate()
            process.join()


class Imports:
    """Imports one source into stores that come and go."""

    def __init__(self, location: str, folder: Path) -> None:
        self._location = location
        self._path = folder / "store"
        self._names = map(str, itertools.count())

    def renew(self) -> None:
        """Make the store an empty one, and let the disk come to rest."""
        shutil.rmtree(self._path, ignore_errors=True)
        Store.create(self._path).close()
        os.sync()

    def __call__(self) -> ImportResult:
        """Import the source under a new name."""
        with Store.open(self._path) as store, open_source(self._location, allow_source=["127.0.0.1"]) as source:
            return import_image(store, source, name=next(self._names), threads=THREADS)


def test_import_over_local_http(beside: Beside, disk: Path, tmp_path: Path) -> None:
    image = inputs.corpus_converted(disk, "qcow2", cluster_size="65536")
    size = inputs.warm(image)
    (tmp_path / "near").mkdir()
    (tmp_path / "far").mkdir()
    near = Imports(str(image), tmp_path / "near")
    with serving(image) as (url, _):
        far = Imports(url, tmp_path / "far")

        def renew() -> None:
            near.renew()
            far.renew()

        renew()
        beside(far, near, named="from disk", size=size, goal=LOCAL_GOAL, rounds=5, before=renew)
    shutil.rmtree(tmp_path)


def test_import_over_a_link_with_latency(beside: Beside, disk: Path, tmp_path: Path) -> None:
    image = inputs.corpus_converted(disk, "qcow2", cluster_size="65536")
    inputs.warm(image)
    with serving(image, latency_s=LATENCY_S, rate=LINK_RATE) as (url, sent):
        imports = Imports(url, tmp_path)
        imports.renew()

        def reached() -> float:
            before, started = sent.value, time.monotonic()
            imports()
            return float((sent.value - before) / (time.monotonic() - started) / LINK_RATE)

        beside.once(reached, named=f"{LINK_RATE / 1e6:.0f} MB/s", goal=LINK_GOAL)
    shutil.rmtree(tmp_path)


def test_import_asks_for_nothing_twice(beside: Beside, disk: Path, tmp_path: Path) -> None:
    image = inputs.corpus_converted(disk, "qcow2", compression="zlib")
    size = inputs.warm(image)
    with serving(image) as (url, sent):
        imports = Imports(url, tmp_path)
        imports.renew()

        def asked() -> float:
            imports()
            return float(sent.value / size)

        beside.once(asked, named="the file's size", goal=Goal("bytes sent for a zlib qcow2", "at most", 1.02))
    shutil.rmtree(tmp_path)
