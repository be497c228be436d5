"""Sending replies from whichever thread has made one, in whole and in turn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable


class ReplySender:
    """Sends the replies of one connection.

    The thread that made a reply hands it to the kernel itself, without waiting and without the GIL, as far as the
    socket takes it. Only what a slow client leaves, and all of an encrypted connection, goes through the event loop.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        """`writer` has nothing left to write; made in its event loop."""
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        writer.transport.set_write_buffer_limits(high=0)  # drained then means that all is sent
        encrypted = writer.get_extra_info("ssl_object") is not None
        self._socket: socket.socket | None = None if encrypted else writer.get_extra_info("socket").dup()
        self._lock = threading.Lock()
        self._queued = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, reply: bytes | bytearray, sent: Callable[[], None]) -> None:
        """Send a reply; `sent` is called, in any thread, when it takes no memory here any more. From any thread.

        A connection that is broken swallows replies; whoever reads from it notices.
        """
        with self._lock:
            taken = 0
            if not self._queued and self._socket is not None:
                try:
                    taken = self._socket.send(reply)
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError:
                    self._loop.call_soon_threadsafe(self._writer.transport.abort)
                    taken = len(reply)
            if taken < len(reply):  # in the order of the queue, so the lock is held
                self._queued += 1
                self._loop.call_soon_threadsafe(self._queue, memoryview(reply)[taken:], sent)
                return
        sent()

    @property
    def is_behind(self) -> bool:
        """Whether the client leaves replies in the queue."""
        return self._queued > 0

    async def drain(self) -> None:
        """Wait until the queue is empty, or the connection broken. In the event loop."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        """Give up the socket; the writer is closed by whoever opened it."""
        if self._socket is not None:
            self._socket.close()

    def _queue(self, rest: memoryview, sent: Callable[[], None]) -> None:
        self._writer.write(rest)
        task = self._loop.create_task(self._finish(sent))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, sent: Callable[[], None]) -> None:
        try:
            with contextlib.suppress(OSError):
                await self._writer.drain()
        finally:
            with self._lock:
                self._queued -= 1
            sent()
