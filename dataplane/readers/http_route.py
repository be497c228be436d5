"""Route: from the URL that was given to the place that has the object, over redirects that all obey one policy."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Mapping, Sequence

import urllib3

from dataplane.dataclass import dataclass
from dataplane.errors import SourceUnavailable
from dataplane.readers.address_policy import resolve
from dataplane.readers.http_place import Place, tls_context
from dataplane.readers.http_retry import RetryBudget
from dataplane.readers.source_url import SourceUrl, parse_redirect

REDIRECTS_MAX = 3

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_EXPIRED = frozenset((403, 404, 410))
"""What the target of a redirect answers once its signature has run out."""

_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Where a source may lead."""

    allow_source: Sequence[str]  # HOST or HOST:PORT entries
    allow_http: bool
    ca_file: str | os.PathLike[str] | None  # PEM; the system's trust store without


class Route:
    """Sends requests to the last place of a chain of redirects, and walks the chain anew when that one has expired.

    Each host and port is resolved once in the life of a route. Safe for concurrent use.
    """

    def __init__(self, origin: SourceUrl, policy: Policy, closed: threading.Event, timeout_s: float) -> None:
        """Resolve the host of ``origin``; raises SourceUnavailable when it is refused or that takes ``timeout_s``.

        Once ``closed`` is set, whatever waits here ends.
        """
        self.name = origin.name
        self._policy = policy
        self._closed = closed
        self._lock = threading.Lock()  # of the two below
        self._places: dict[SourceUrl, Place] = {}
        self._current: Place | None = None
        self._walking = threading.Lock()
        self._addresses: dict[tuple[str, int], list[str]] = {}
        self._origin = origin
        self._context: ssl.SSLContext | None = None
        self._place(origin, 0, timeout_s)

    def send(self, headers: Mapping[str, str], budget: RetryBudget) -> tuple[Place, urllib3.BaseHTTPResponse]:
        """Send a ranged GET and return its answer, which is no redirect, and the place it comes from.

        Raises SourceUnavailable when a redirect is refused, and what ``Place.send`` raises.
        """
        place = self._current
        if place is not None:
            answer = place.send(headers, budget.remaining_s())
            if not self._is_left(place, answer.status):
                return place, answer
            answer.close()
            with self._lock:
                if self._current is place:  # else another thread has found the new place already
                    self._current = None
        return self._walk(headers, budget)

    def close(self) -> None:
        """Close all connections that are not in use. The closed event must be set before."""
        with self._lock:
            places = list(self._places.values())
        for place in places:
            place.close()

    def _is_left(self, place: Place, status: int) -> bool:
        """Tell whether ``place``, which has worked, sends us back to the start of the chain."""
        return place.has_worked and (status in _REDIRECTS or (status in _EXPIRED and place.depth > 0))

    def _walk(self, headers: Mapping[str, str], budget: RetryBudget) -> tuple[Place, urllib3.BaseHTTPResponse]:
        """Follow redirects from the start; one thread at a time, the others then go where it has arrived."""
        while not self._walking.acquire(timeout=_LOOK_S):
            budget.remaining_s()
            self._check_open()
        try:
            current = self._current
            if current is None:
                return self._follow(headers, budget)
        finally:
            self._walking.release()
        return current, current.send(headers, budget.remaining_s())

    def _follow(self, headers: Mapping[str, str], budget: RetryBudget) -> tuple[Place, urllib3.BaseHTTPResponse]:
        url = self._origin
        for depth in range(REDIRECTS_MAX + 1):
            place = self._place(url, depth, budget.remaining_s())
            answer = place.send(headers, budget.remaining_s())
            if answer.status not in _REDIRECTS:
                if answer.status == 206:
                    self._adopt(place)
                return place, answer
            location = answer.headers.get("Location")
            answer.close()
            url = parse_redirect(place.name, location, url, allow_http=self._policy.allow_http)
        raise SourceUnavailable(
            f"{self.name}: the server redirects more than {REDIRECTS_MAX} times; give the final URL"
        )

    def _adopt(self, place: Place) -> None:
        with self._lock:
            self._current = place
            stale = [url for url, held in self._places.items() if held is not place and held.depth > 0]
            dropped = [self._places.pop(url) for url in stale]
        for held in dropped:
            held.close()

    def _place(self, url: SourceUrl, depth: int, left_s: float) -> Place:
        """Return the place of ``url`` once its host is resolved and allowed."""
        with self._lock:
            known = self._places.get(url)
        if known is not None and known.depth == depth:
            return known
        called = self.name if depth == 0 else f"{self.name}: the server redirects to host {url.host}"
        key = (url.host.lower(), url.port)
        if key not in self._addresses:
            self._addresses[key] = resolve(
                called, url.host, url.port, self._policy.allow_source, timeout_s=left_s, given_up=self._closed.is_set
            )
        if url.scheme == "https" and self._context is None:
            self._context = tls_context(self._policy.ca_file)
        place = Place(self.name, url, self._addresses[key], self._context, depth)
        with self._lock:
            self._check_open()
            self._places[url] = place
        return place

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise SourceUnavailable(f"{self.name} was closed while it was read")
