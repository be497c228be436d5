"""Connections whose every byte has a deadline: socket timeouts alone let a server drip for ever."""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import os
import re
import socket
import time
from collections.abc import Callable
from contextvars import ContextVar

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

STALL_MAX_S = 15.0
"""Seconds that one receive may wait for anything at all."""

PROGRESS_SIZE = 256 << 10
"""Bytes that have to arrive within the time limit of a read, so that a server cannot hold a reader with a drip."""

_BUFFER_SIZE = 16 << 10
"""Bytes received ahead of what is asked for; small, because what exceeds it goes to its target without a copy."""


class Exchange:
    """One request and its answer: the deadline (of ``time.monotonic``) that moves with progress, and a way to stop."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.answer: DeadlineResponse | None = None
        """The answer, once its head has been read."""
        self.renew: Callable[[], float] | None = None
        """Returns a new deadline, for each PROGRESS_SIZE bytes that arrive; set while they are a body's own."""
        self._arrived = 0  # bytes since the last renewal
        self._socket: socket.socket | None = None
        self._aborted = False

    def attach(self, connected: socket.socket) -> None:
        """Take note of the socket that the exchange uses; must be called before it is waited on."""
        # A handle of our own: that of the connection changes hands when TLS begins, and closes when it ends.
        handle = socket.socket(fileno=os.dup(connected.fileno()))
        self.finish()
        self._socket = handle
        if self._aborted:
            self.abort()

    def note(self, count: int) -> None:
        """Take note that bytes have arrived."""
        if self.renew is not None:
            self._arrived += count
            if self._arrived >= PROGRESS_SIZE:
                self._arrived = 0
                self.deadline = self.renew()

    def abort(self) -> None:
        """End the exchange from another thread: its connect or receive under way fails or ends at once."""
        self._aborted = True
        handle = self._socket
        if handle is not None:
            with contextlib.suppress(OSError):  # not connected any more
                handle.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        """Let go of the socket."""
        handle, self._socket = self._socket, None
        if handle is not None:
            handle.close()


CURRENT: ContextVar[Exchange] = ContextVar("exchange")
"""The exchange that this thread makes; set around each request."""


class _TimedSocketIO(io.RawIOBase):
    """What a socket sends, as a raw stream that refuses to wait beyond its exchange's deadline."""

    def __init__(self, raw: io.RawIOBase, connected: socket.socket, exchange: Exchange) -> None:
        self._raw = raw
        self._socket = connected
        self._exchange = exchange
        self.has_ended = False
        self.failure: OSError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if self.failure is not None:
            raise self.failure
        try:
            count = self._receive(buffer)
        except OSError as error:
            if self._exchange.renew is None:
                raise
            # A stream that has nothing at the moment lets its reader keep what came before; it fails the next time.
            self.failure = error
            return None
        self.has_ended = count == 0
        self._exchange.note(count or 0)
        return count

    def _receive(self, buffer: Any) -> int | None:
        left_s = self._exchange.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the deadline has passed")
        limit_s = min(left_s, STALL_MAX_S)
        if limit_s != self._socket.gettimeout():
            self._socket.settimeout(limit_s)
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
        exchange.answer = self
        self._received = _TimedSocketIO(self.fp.detach(), sock, exchange)
        self.fp = io.BufferedReader(self._received, _BUFFER_SIZE)

    @property
    def failure(self) -> OSError | None:
        """What ended the body early, if anything has."""
        return self._received.failure

    def begin(self) -> None:
        """Read the head; raises RemoteDisconnected when it is cut off, which would else pass for its end."""
        super().begin()
        if self._received.has_ended:
            raise http.client.RemoteDisconnected("the head is cut off")


class DeadlineHTTPConnection(HTTPConnection):
    """A plain connection that can be given up while it is made, and reads answers under a deadline."""

    response_class = DeadlineResponse

    def _new_conn(self) -> socket.socket:
        return _connect(self)


class DeadlineHTTPSConnection(HTTPSConnection):
    """A TLS connection that can be given up while it is made, and reads answers under a deadline."""

    response_class = DeadlineResponse

    def _new_conn(self) -> socket.socket:
        return _connect(self)


def _connect(connection: HTTPConnection) -> socket.socket:
    """Connect to the one address that ``connection`` is for."""
    exchange = CURRENT.get()
    family = socket.AF_INET6 if ":" in connection.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limit_s = connection.timeout
        made.settimeout(limit_s if isinstance(limit_s, int | float) else STALL_MAX_S)
        exchange.attach(made)
        made.connect((connection.host, connection.port))
    except TimeoutError as error:
        made.close()
        raise ConnectTimeoutError(connection, "the host does not answer") from error
    except BaseException as error:
        made.close()
        if isinstance(error, OSError):
            raise NewConnectionError(connection, "the connection fails") from error
        raise
    return made


class _RedactQueries(logging.Filter):
    """Takes queries out of log records: that of a pre-signed URL is a secret."""

    _QUERY = re.compile(r"\?[^\s\"'<>]*")

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._QUERY.sub("?…", record.getMessage()), ()
        record.exc_info = None  # its text may repeat what the server sent, which may repeat the query
        return True


for _logger in ("urllib3.connection", "urllib3.connectionpool", "urllib3.response", "urllib3.util.retry"):
    logging.getLogger(_logger).addFilter(_RedactQueries())
