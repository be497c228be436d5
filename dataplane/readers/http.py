"""HttpReader: the bytes behind an http(s) URL, read by ranges from one version of one host."""

from __future__ import annotations

import math
import os
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import urllib3
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError

from dataplane.byte_reader import ByteReader
from dataplane.errors import SourceUnavailable, UsageError
from dataplane.limits import KIB, MIB
from dataplane.readers.address_policy import resolve
from dataplane.readers.checks import check_range
from dataplane.readers.http_answer import Pin, check_answer, check_status, is_empty, read_pin
from dataplane.readers.http_deadline import (
    CURRENT,
    STALL_MAX_S,
    DeadlineHTTPConnection,
    DeadlineHTTPSConnection,
    Exchange,
)
from dataplane.readers.http_retry import RetryBudget, Transient
from dataplane.readers.source_url import SourceUrl, parse_source_url

HEAD_SIZE = 64 * KIB
"""Bytes that the first request asks for and that are kept: enough for every probe."""

REQUEST_SIZE_MAX = 4 * MIB
"""Bytes that one request asks for; longer reads take several."""

_PROGRESS_SIZE = 256 * KIB
"""Bytes that have to arrive within ``timeout_s``, so that a server cannot hold a reader with a drip."""

_RECEIVE_SIZE = 256 * KIB
_CONNECT_MAX_S = 10.0
_CONNECTIONS_MAX = 8

_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "dataplane"}


class HttpReader(ByteReader):
    """An object behind an http(s) URL. Safe to use from several threads at once.

    The host is resolved once, its addresses are checked and connections go only there; size, ETag (or Last-Modified)
    of the first answer are checked against every later one. Proxies, cookies, credentials and redirects are not used.
    """

    def __init__(
        self,
        url: str,
        *,
        allow_source: Sequence[str] = (),
        allow_http: bool = True,
        timeout_s: float = 60.0,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        """Make the first request.

        ``allow_source`` lists hosts (``HOST`` or ``HOST:PORT``) whose addresses need not be public. A read fails when
        256 KiB (or all of a shorter rest) take longer than ``timeout_s``, retries included. ``ca_file`` (PEM) replaces
        the system's trust store. Raises SourceUnavailable, InvalidImage for a size out of bounds, UsageError for an
        argument out of range.
        """
        if not 0 < timeout_s <= 86400:
            raise UsageError(f"a time limit of {timeout_s:g} s is not between 0 and one day")
        self._url = parse_source_url(url, allow_http=allow_http)
        self.name = self._url.name
        self._timeout_s = timeout_s
        addresses = resolve(self.name, self._url.host, self._url.port, allow_source)
        context = _tls_context(ca_file) if self._url.scheme == "https" else None
        self._pools = [_pool(self._url, address, context) for address in addresses]
        self._pool_index = 0
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._exchanges: set[Exchange] = set()
        self._pin: Pin | None = None
        try:
            self._head = self._fetch(0, HEAD_SIZE)
        except BaseException:
            self.close()
            raise
        self.size = self._pin.size if self._pin is not None else 0

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``, in requests of at most REQUEST_SIZE_MAX bytes.

        Raises InvalidImage when the range is not wholly inside the object, SourceUnavailable when it cannot be had in
        time, has changed since it was opened, or the reader is closed.
        """
        check_range(self, offset, length)
        if offset + length <= len(self._head):
            return self._head[offset : offset + length]
        end = offset + length
        pieces = [self._fetch(at, min(REQUEST_SIZE_MAX, end - at)) for at in range(offset, end, REQUEST_SIZE_MAX)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close all connections; reads under way in other threads end with SourceUnavailable. Idempotent."""
        self._closed.set()
        with self._lock:
            exchanges = list(self._exchanges)
        for exchange in exchanges:
            exchange.abort()
        for pool in self._pools:
            pool.close()

    def _fetch(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``, going on behind what has arrived when an attempt fails.

        The first call, which pins the object, returns less when there is less.
        """
        body = bytearray()
        budget = RetryBudget(self.name, self._timeout_s)
        while True:
            try:
                with self._exchange(budget) as exchange:
                    self._request(exchange, body, offset, length, budget)
                return bytes(body)
            except Transient as failure:
                self._check_open()
                budget.pause(failure, self._closed)
            self._check_open()

    @contextmanager
    def _exchange(self, budget: RetryBudget) -> Iterator[Exchange]:
        """Make the exchange of this thread known while it lasts; errors of the network come out as Transient."""
        self._check_open()
        exchange = Exchange(budget.deadline)
        with self._lock:
            self._exchanges.add(exchange)
        token = CURRENT.set(exchange)
        try:
            yield exchange
        except (HTTPError, OSError) as error:
            self._refuse_certificate(error)
            if isinstance(error, NewConnectionError | ConnectTimeoutError):
                self._pool_index += 1  # the host may have another address
            # Not chained: texts of the library hold the URL with its query.
            raise Transient(_network_problem(error)) from None
        finally:
            CURRENT.reset(token)
            with self._lock:
                self._exchanges.discard(exchange)

    def _request(self, exchange: Exchange, body: bytearray, offset: int, length: int, budget: RetryBudget) -> None:
        """Ask for what ``body`` lacks of ``length`` bytes from ``offset`` and append it as it arrives."""
        first, last = offset + len(body), offset + length - 1
        left_s = budget.remaining_s()
        response = self._pools[self._pool_index % len(self._pools)].urlopen(
            "GET",
            self._url.target,
            headers={
                **_HEADERS,
                "Host": self._url.host_header,
                "Range": f"bytes={first}-{last}",
                **(self._pin.condition() if self._pin is not None else {}),
            },
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
            assert_same_host=False,
            timeout=urllib3.Timeout(connect=min(left_s, _CONNECT_MAX_S), read=min(left_s, STALL_MAX_S)),
            pool_timeout=math.ceil(left_s),
        )
        complete = False
        try:
            if self._pin is None:
                if is_empty(response.status, response.headers):
                    return
                check_status(self.name, response.status, response.headers)
                self._pin = read_pin(self.name, response.headers)
            else:
                check_status(self.name, response.status, response.headers)
            last = min(last, self._pin.size - 1)
            check_answer(self.name, response.headers, self._pin, first=first, last=last)
            self._receive(exchange, response, body, last - offset + 1, budget)
            complete = True
        finally:
            # A connection with an unread rest is of no further use; a closed one is opened again by the pool.
            if not complete:
                response.close()
            response.release_conn()

    def _receive(
        self,
        exchange: Exchange,
        response: urllib3.BaseHTTPResponse,
        body: bytearray,
        length: int,
        budget: RetryBudget,
    ) -> None:
        """Append to ``body`` until it has ``length`` bytes; each _PROGRESS_SIZE of them renews the budget."""
        renew_at = len(body) + _PROGRESS_SIZE
        while len(body) < length:
            piece = response.read1(min(_RECEIVE_SIZE, length - len(body)))
            if not piece:
                raise Transient("the server ends its answer early")
            # What another thread's close() cut off may be anything.
            self._check_open()
            body += piece
            if len(body) >= renew_at:
                renew_at = len(body) + _PROGRESS_SIZE
                budget.renew()
                exchange.deadline = budget.deadline
        if response.read1(1):
            raise SourceUnavailable(f"{self.name}: the server sends more bytes than it announced")

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise SourceUnavailable(f"{self.name} was closed while it was read")

    def _refuse_certificate(self, error: Exception) -> None:
        reason = error.args[0] if isinstance(error, SSLError) and error.args else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise SourceUnavailable(
                f"{self.name}: the certificate is not accepted ({reason.verify_message}); check host and trust store"
            ) from None


def _pool(url: SourceUrl, address: str, context: ssl.SSLContext | None) -> HTTPConnectionPool:
    """Return a pool of connections that all go to ``address``, whatever the host's name resolves to later."""
    if context is None:
        plain = HTTPConnectionPool(address, url.port, maxsize=_CONNECTIONS_MAX, block=True)
        plain.ConnectionCls = DeadlineHTTPConnection
        return plain
    secure = HTTPSConnectionPool(
        address, url.port, maxsize=_CONNECTIONS_MAX, block=True, ssl_context=context, server_hostname=url.host
    )
    secure.ConnectionCls = DeadlineHTTPSConnection
    return secure


def _tls_context(ca_file: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """Return a context that verifies certificate and host name; raises SourceUnavailable when ``ca_file`` is unusable.

    Not ``ssl.create_default_context``, which would log session keys where the environment says so.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SourceUnavailable(f"the CA file {os.fspath(ca_file)} cannot be read as PEM certificates") from error
    return context


def _network_problem(error: Exception) -> str:
    """Say what happened in words of our own, because those of libraries may hold the URL."""
    if isinstance(error, NewConnectionError):
        return "the connection is refused or the host is not reachable"
    if isinstance(error, ConnectTimeoutError):
        return "the host does not answer"
    if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
        return "the server is too slow"
    if isinstance(error, urllib3.exceptions.EmptyPoolError):
        return "no connection is free"
    if isinstance(error, SSLError | ssl.SSLError):
        return "the TLS connection fails"
    return "the server breaks off or answers with something that is not HTTP"
