"""Place: one URL whose host is resolved and pinned, and the connections to it."""

from __future__ import annotations

import http.client
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import urllib3
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    NewConnectionError,
    ProtocolError,
    SSLError,
)

from dataplane.errors import SourceUnavailable
from dataplane.readers.http_deadline import STALL_MAX_S, DeadlineHTTPConnection, DeadlineHTTPSConnection
from dataplane.readers.http_retry import ATTEMPTS_MAX, Transient
from dataplane.readers.source_url import SourceUrl

CONNECTIONS_MAX = 12
"""Requests of one reader under way at once, each on a connection of its own: eight for data, the rest for tables."""

_CONNECT_MAX_S = 10.0

_NONSENSE = "answers with something that is not HTTP, or with headers that are malformed or without end"
_NONSENSE_ATTEMPTS_MAX = 3
"""Attempts at a server whose answers cannot be read: one may be the rest of another answer, three are its habit."""


class Place:
    """Where ranges are asked for. ``depth`` is how many redirects led here. Safe for concurrent use."""

    def __init__(
        self, name: str, url: SourceUrl, addresses: Sequence[str], context: ssl.SSLContext | None, depth: int
    ) -> None:
        """Prepare connections to ``addresses``, which are checked; ``context`` is for https, ``name`` the source's."""
        self.url = url
        self.depth = depth
        self.name = name if depth == 0 else f"{name}: redirected to host {url.host}"
        """What messages call this place."""
        self._where = "" if depth == 0 else f"redirected to host {url.host}: "
        self.has_worked = False
        self._pools = [_pool(url, address, context) for address in addresses]
        self._pool_index = 0

    def send(self, headers: Mapping[str, str], left_s: float) -> urllib3.BaseHTTPResponse:
        """Send a GET and return the answer with its body unread. Raises what ``naming_failures`` says."""
        with self.naming_failures():
            return self._pools[self._pool_index % len(self._pools)].urlopen(
                "GET",
                self.url.target,
                headers={**headers, "Host": self.url.host_header},
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                assert_same_host=False,
                timeout=urllib3.Timeout(connect=min(left_s, _CONNECT_MAX_S), read=min(left_s, STALL_MAX_S)),
            )
        raise AssertionError("unreachable")

    @contextmanager
    def naming_failures(self) -> Iterator[None]:
        """Turn what the network does into Transient, or SourceUnavailable for a certificate that is not accepted."""
        try:
            yield
        except (HTTPError, http.client.HTTPException, OSError) as error:
            reason = error.args[0] if isinstance(error, SSLError) and error.args else error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise SourceUnavailable(
                    f"{self.name}: the certificate is not accepted ({reason.verify_message}); "
                    "check host and trust store"
                ) from None
            if isinstance(error, NewConnectionError | ConnectTimeoutError):
                self._pool_index += 1  # the host may have another address
            problem, attempts_max = network_problem(error)
            # Not chained: texts of the library hold the URL with its query.
            raise Transient(self._where + problem, attempts_max=attempts_max) from None

    def close(self) -> None:
        """Close the connections that are not in use."""
        for pool in self._pools:
            pool.close()


def _pool(url: SourceUrl, address: str, context: ssl.SSLContext | None) -> HTTPConnectionPool:
    """Return a pool of connections that all go to ``address``, whatever the host's name resolves to later."""
    if url.scheme == "http":
        plain = HTTPConnectionPool(address, url.port, maxsize=CONNECTIONS_MAX)
        plain.ConnectionCls = DeadlineHTTPConnection
        return plain
    secure = HTTPSConnectionPool(
        address, url.port, maxsize=CONNECTIONS_MAX, ssl_context=context, server_hostname=url.host
    )
    secure.ConnectionCls = DeadlineHTTPSConnection
    return secure


def tls_context(ca_file: str | os.PathLike[str] | None) -> ssl.SSLContext:
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


def network_problem(error: Exception) -> tuple[str, int]:
    """Say what happened, in words of our own because those of libraries may hold the URL, and how often to try."""
    if isinstance(error, NewConnectionError):
        return "the connection is refused or the host is not reachable", ATTEMPTS_MAX
    if isinstance(error, ConnectTimeoutError):
        return "the host does not answer", ATTEMPTS_MAX
    if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
        return "the server is too slow", ATTEMPTS_MAX
    if isinstance(error, SSLError | ssl.SSLError):
        return "the TLS connection fails", ATTEMPTS_MAX
    cause = error.args[1] if isinstance(error, ProtocolError) and len(error.args) > 1 else error
    if isinstance(cause, http.client.HTTPException | InvalidHeader) and not isinstance(
        cause, http.client.RemoteDisconnected | http.client.IncompleteRead
    ):
        return f"the server {_NONSENSE}", _NONSENSE_ATTEMPTS_MAX
    return "the server breaks off its answer", ATTEMPTS_MAX
