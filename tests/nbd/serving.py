"""A server in a thread of its own, and the disk that it serves."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataplane.nbd.exports import BlockDevice, Exports, OneExport
from dataplane.nbd.server import NbdServer

START_S = 60


class Served:
    """A server that runs: where it listens, and what it had to say of requests that failed."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.port = 0
        self.messages: list[str] = []
        self.server: NbdServer | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def url(self, export: str = "") -> str:
        return f"nbd+unix:///{export}?socket={self.socket}"


@contextmanager
def serving(
    folder: Path, exports: Exports | BlockDevice, *, tls: ssl.SSLContext | None = None, **options: Any
) -> Iterator[Served]:
    """Serve exports, or one device, on a Unix socket in `folder` and on a TCP port of the loopback device."""
    served = Served(folder / "nbd.sock")
    found: Exports = exports if hasattr(exports, "find") else OneExport(exports, "disk", "a disk")  # type: ignore
    started, stop = threading.Event(), None
    failures: list[BaseException] = []

    async def run() -> None:
        nonlocal stop
        served.loop, stop = asyncio.get_running_loop(), asyncio.Event()
        served.server = NbdServer(found, tls=tls, report=served.messages.append, **options)
        await served.server.listen_unix(served.socket)
        ((_, served.port),) = await served.server.listen_tcp("127.0.0.1", 0)
        started.set()
        await stop.wait()
        await served.server.close()

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            failures.append(error)
            started.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert started.wait(START_S)
    assert not failures, failures
    try:
        yield served
    finally:
        assert served.loop is not None
        assert stop is not None
        served.loop.call_soon_threadsafe(stop.set)
        thread.join(START_S)
        assert not thread.is_alive()
        assert not failures, failures
