"""HttpReader: the bytes behind an http(s) URL, read by ranges from one version of one object."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import urllib3

from dataplane.byte_reader import ByteReader
from dataplane.errors import SourceUnavailable, UsageError
from dataplane.limits import KIB, MIB
from dataplane.readers.address_policy import never
from dataplane.readers.checks import check_range
from dataplane.readers.http_answer import Pin, check_answer, check_status, is_empty, read_pin
from dataplane.readers.http_deadline import CURRENT, PROGRESS_SIZE, Exchange
from dataplane.readers.http_place import CONNECTIONS_MAX, Place
from dataplane.readers.http_retry import RetryBudget, Transient
from dataplane.readers.http_route import Policy, Route
from dataplane.readers.scatter import Targets
from dataplane.readers.source_url import parse_source_url

HEAD_SIZE = 64 * KIB
"""Bytes that the first request asks for and that are kept: enough for every probe."""

REQUEST_SIZE_MAX = 4 * MIB
"""Bytes that one request asks for; longer reads take several."""

_PIECE_SIZE = MIB
"""Bytes received between two looks whether anybody still wants them."""

_LOOK_S = 0.1

_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "dataplane"}


class HttpReader(ByteReader):
    """An object behind an http(s) URL. Safe to use from several threads at once.

    Each host is resolved once, its addresses are checked and connections go only there, over at most three redirects;
    size, ETag (or Last-Modified) of the first answer are checked against every later one. Proxies, cookies and
    credentials are not used.
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
        origin = parse_source_url(url, allow_http=allow_http)
        self.name = origin.name
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._lock = threading.Lock()
        self._exchanges: set[Exchange] = set()
        self._pin: Pin | None = None
        self._head = b""
        policy = Policy(allow_source=allow_source, allow_http=allow_http, ca_file=ca_file)
        self._route = Route(origin, policy, self._closed, timeout_s)
        head = bytearray(HEAD_SIZE)
        targets = Targets([memoryview(head)])
        try:
            self._fetch(0, targets, never)
        except BaseException:
            self.close()
            raise
        self._head = bytes(head[: targets.filled])
        self.size = self._pin.size if self._pin is not None else 0
        self.validator = self._pin.validator() if self._pin is not None else ""

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``, in requests of at most REQUEST_SIZE_MAX bytes.

        Raises InvalidImage when the range is not wholly inside the object, SourceUnavailable when it cannot be had in
        time, has changed since it was opened, or the reader is closed.
        """
        check_range(self, offset, length)
        if offset + length <= len(self._head):
            return self._head[offset : offset + length]
        buffer = bytearray(length)
        self.read_into(offset, Targets([memoryview(buffer)]), never)
        return bytes(buffer)

    def read_into(self, offset: int, targets: Targets, given_up: Callable[[], bool]) -> None:
        """Fill ``targets`` from ``offset``; raises as ``read_at`` does, or SourceUnavailable once ``given_up``."""
        check_range(self, offset, targets.length)
        if offset < len(self._head):
            targets.copy(memoryview(self._head)[offset : offset + targets.length])
        self._fetch(offset, targets, given_up)

    def close(self) -> None:
        """Close all connections; reads under way in other threads end with SourceUnavailable. Idempotent."""
        self._closed.set()
        with self._lock:
            for exchange in self._exchanges:
                exchange.abort()
        self._route.close()

    def _fetch(self, offset: int, targets: Targets, given_up: Callable[[], bool]) -> None:
        """Fill what ``targets``, which begin at ``offset``, still lack; failed attempts go on where they ended.

        The first call, which pins the object, fills less when there is less.
        """
        budget = RetryBudget(self.name, self._timeout_s)
        while targets.filled < self._length_from(offset, targets.length):
            try:
                with self._exchange(budget, given_up) as exchange:
                    self._request(exchange, offset, targets, budget, given_up)
            except Transient as failure:
                self._check_wanted(given_up)
                budget.pause(failure, self._closed)

    def _length_from(self, offset: int, length: int) -> int:
        """Return how many of ``length`` bytes from ``offset`` there are, as far as that is known."""
        return length if self._pin is None else min(length, self._pin.size - offset)

    @contextmanager
    def _exchange(self, budget: RetryBudget, given_up: Callable[[], bool]) -> Iterator[Exchange]:
        """Wait for one of the CONNECTIONS_MAX slots, and make the exchange of this thread known while it lasts."""
        self._check_wanted(given_up)
        while not self._slots.acquire(timeout=_LOOK_S):
            self._check_wanted(given_up)
            budget.remaining_s()
        exchange = Exchange(budget.deadline)
        with self._lock:
            self._exchanges.add(exchange)
        token = CURRENT.set(exchange)
        try:
            self._check_wanted(given_up)
            yield exchange
        finally:
            CURRENT.reset(token)
            with self._lock:
                self._exchanges.discard(exchange)
                exchange.finish()
            self._slots.release()

    def _request(
        self,
        exchange: Exchange,
        offset: int,
        targets: Targets,
        budget: RetryBudget,
        given_up: Callable[[], bool],
    ) -> None:
        """Ask for the next bytes that ``targets`` lack and fill them in as they arrive."""
        first = offset + targets.filled
        last = min(first + REQUEST_SIZE_MAX, offset + targets.length) - 1
        condition = self._pin.condition() if self._pin is not None else {}
        place, answer = self._route.send({**_HEADERS, "Range": f"bytes={first}-{last}", **condition}, budget)
        complete = False
        try:
            if self._pin is None and is_empty(answer.status, answer.headers):
                self._pin = Pin(0, None, None)
                return
            self._pin = self._check(place, answer, first, last)
            length = min(last, self._pin.size - 1) - first + 1
            with place.naming_failures():
                self._receive(exchange, targets, length, budget, given_up)
            place.has_worked = True
            complete = True
        finally:
            # A connection with an unread rest is of no further use; a closed one is opened again by the pool.
            if not complete:
                answer.close()
            answer.release_conn()

    def _check(self, place: Place, answer: urllib3.BaseHTTPResponse, first: int, last: int) -> Pin:
        """Return the pin that the head of the answer obeys, which the first answer makes."""
        check_status(place.name, answer.status, answer.headers, self._pin)
        pin = self._pin if self._pin is not None else read_pin(place.name, answer.headers)
        check_answer(place.name, answer.headers, pin, first=first, last=min(last, pin.size - 1))
        return pin

    def _receive(
        self, exchange: Exchange, targets: Targets, length: int, budget: RetryBudget, given_up: Callable[[], bool]
    ) -> None:
        """Fill ``length`` bytes of ``targets``; each PROGRESS_SIZE of them renews the budget."""
        answer = exchange.answer
        if answer is None:
            raise AssertionError("an answer has been received")
        # What frames chunks is no progress, so they are received in pieces that are.
        piece_size = PROGRESS_SIZE if answer.chunked else _PIECE_SIZE
        exchange.renew = None if answer.chunked else budget.renew
        while length > 0:
            count = answer.readinto(targets.next(min(length, piece_size)))
            # What another thread's close() cut off may be anything.
            self._check_wanted(given_up)
            if not count:
                if answer.failure is not None:
                    raise answer.failure
                raise Transient("the server ends its answer early")
            targets.advance(count)
            length -= count
            if answer.chunked and count == piece_size:
                exchange.deadline = budget.renew()
        exchange.renew = None
        if answer.readinto(bytearray(1)):
            raise SourceUnavailable(f"{self.name}: the server sends more bytes than it announced")

    def _check_wanted(self, given_up: Callable[[], bool]) -> None:
        if self._closed.is_set():
            raise SourceUnavailable(f"{self.name} was closed while it was read")
        if given_up():
            raise SourceUnavailable(f"{self.name}: the read was given up")
