"""The NBD server: listens, lets every connection haggle and transmit, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dataplane.errors import IoFailed, UsageError
from dataplane.nbd.exports import Exports
from dataplane.nbd.negotiation import Disconnected, Negotiation
from dataplane.nbd.observing import Nobody, Observer
from dataplane.nbd.transmission import Transmission

NEGOTIATION_S = 30.0
"""How long a client may take before it transmits."""

CONNECTIONS_MAX = 256
DRAIN_S = 10.0
"""How long requests under way may take when the server ends, before their connections are cut."""

SOCKET_BUFFER_SIZE = 4 << 20


class NbdServer:
    """A server of `exports`, in the running event loop. With `tls` clients have to encrypt before anything else."""

    def __init__(
        self,
        exports: Exports,
        *,
        tls: ssl.SSLContext | None = None,
        connections_max: int = CONNECTIONS_MAX,
        threads: int | None = None,
        negotiation_s: float = NEGOTIATION_S,
        report: Callable[[str], None] = lambda message: None,
        observer: Observer | None = None,
    ) -> None:
        """`report` is told, in a line of text, why a request could not be done; clients learn only that it was not.

        `observer` counts.
        """
        self._exports = exports
        self._tls = tls
        self._connections_max = connections_max
        self._negotiation_s = negotiation_s
        self._report = report
        self._observer: Observer = observer if observer is not None else Nobody()
        self._executor = ThreadPoolExecutor(threads or 2 + 2 * len(os.sched_getaffinity(0)), "nbd")
        self._servers: list[asyncio.Server] = []
        self._socket_paths: list[Path] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._transmissions: set[Transmission] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._ending = False

    async def listen_tcp(self, host: str, port: int) -> list[tuple[str, int]]:
        """Listen on a TCP address; return those there are. Port 0 is any. Raises IoFailed."""
        try:
            server = await asyncio.start_server(self._accept, host, port, limit=1 << 20, reuse_address=True)
        except OSError as error:
            raise IoFailed(f"listening on {host}:{port} failed: {error.strerror or error}") from error
        self._servers.append(server)
        return [found.getsockname()[:2] for found in server.sockets]

    async def listen_unix(self, path: str | os.PathLike[str]) -> None:
        """Listen on a Unix socket, in the place of one that nobody listens on. Raises IoFailed or UsageError."""
        address = Path(path)
        if address.is_socket():
            if await answers(address):
                raise UsageError(f"{address} is in use by another server: choose another path")
            address.unlink(missing_ok=True)
        try:
            server = await asyncio.start_unix_server(self._accept, address, limit=1 << 20)
        except OSError as error:
            raise IoFailed(f"listening on {address} failed: {error.strerror or error}") from error
        self._servers.append(server)
        self._socket_paths.append(address)

    async def close(self) -> None:
        """Stop listening, let requests under way end, and disconnect everybody."""
        self._ending = True
        for server in self._servers:
            server.close()
        for path in self._socket_paths:
            path.unlink(missing_ok=True)
        for transmission in self._transmissions:
            transmission.shutting_down = True
        settling = [asyncio.ensure_future(transmission.settle()) for transmission in self._transmissions]
        if settling:
            await asyncio.wait(settling, timeout=DRAIN_S)
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN_S)
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._ending or len(self._tasks) >= self._connections_max:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._observer.connected()
        try:
            prepare_socket(writer)
            # Not everything that is wrong with a client is worth a word: it may do all this as often as it likes.
            with contextlib.suppress(
                Disconnected, asyncio.IncompleteReadError, OSError, TimeoutError, asyncio.LimitOverrunError
            ):
                await self._negotiate_and_transmit(reader, writer)
        finally:
            self._observer.disconnected()
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(writer.wait_closed(), DRAIN_S)

    async def _negotiate_and_transmit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(self._negotiation_s):
            agreement = await Negotiation(reader, writer, self._exports, self._tls).run()
        transmission = Transmission(reader, writer, agreement, self._executor, self._report, self._observer)
        transmission.shutting_down = self._ending
        self._transmissions.add(transmission)
        try:
            await transmission.run()
        finally:
            self._transmissions.discard(transmission)
            agreement.export.closed()


def prepare_socket(writer: asyncio.StreamWriter) -> None:
    """Give a connection large buffers, and let a dead peer be noticed."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_SIZE)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


async def answers(path: Path) -> bool:
    """Return whether anybody listens on a Unix socket."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True
