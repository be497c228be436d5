"""Connections whose every byte has a deadline: socket timeouts alone let a server drip for ever."""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import re
import socket
import time
from contextvars import ContextVar
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection

STALL_MAX_S = 15.0
"""Seconds that one receive may wait for anything at all."""

_RECEIVE_SIZE = 256 << 10


class Exchange:
    """One request and its answer: the deadline (of ``time.monotonic``) that moves with progress, and a way to stop."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._socket: socket.socket | None = None
        self._aborted = False

    def attach(self, connected: socket.socket) -> None:
        """Take note of the socket that the answer comes from."""
        self._socket = connected
        if self._aborted:
            self.abort()

    def abort(self) -> None:
        """End the exchange from another thread: its receive under way returns as at the end of the stream."""
        self._aborted = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # not connected any more
                # Not SSLSocket.shutdown, which takes the TLS layer away under the thread that reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


CURRENT: ContextVar[Exchange] = ContextVar("exchange")
"""The exchange that this thread makes; set around each request."""


class _TimedSocketIO(io.RawIOBase):
    """What a socket sends, as a raw stream that refuses to wait beyond its exchange's deadline."""

    def __init__(self, raw: io.RawIOBase, connected: socket.socket, exchange: Exchange) -> None:
        self._raw = raw
        self._socket = connected
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left_s = self._exchange.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the deadline has passed")
        self._socket.settimeout(min(left_s, STALL_MAX_S))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class DeadlineResponse(http.client.HTTPResponse):
    """An answer whose status line, headers and body are all read under the deadline of the exchange."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        exchange = CURRENT.get()
        exchange.attach(sock)
        self.fp = io.BufferedReader(_TimedSocketIO(self.fp.detach(), sock, exchange), _RECEIVE_SIZE)


class DeadlineHTTPConnection(HTTPConnection):
    """A plain connection that reads answers under a deadline."""

    response_class = DeadlineResponse


class DeadlineHTTPSConnection(HTTPSConnection):
    """A TLS connection that reads answers under a deadline."""

    response_class = DeadlineResponse


class _RedactQueries(logging.Filter):
    """Takes queries out of log records: that of a pre-signed URL is a secret."""

    _QUERY = re.compile(r"\?[^\s\"'<>]*")

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._QUERY.sub("?…", record.getMessage()), ()
        record.exc_info = None  # its text may repeat what the server sent, which may repeat the query
        return True


for _logger in ("urllib3.connection", "urllib3.connectionpool", "urllib3.response", "urllib3.util.retry"):
    logging.getLogger(_logger).addFilter(_RedactQueries())
