"""Which network addresses a source may have: a URL from a stranger must not reach into the network we run in."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from dataplane.errors import SourceUnavailable, UsageError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_ADDRESSES_MAX = 16
"""Addresses of one host that are connected to in turn; all are checked."""

_LOOK_S = 0.05

_SHARED = ipaddress.ip_network("100.64.0.0/10")  # carrier-grade NAT
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

_PLATFORM = ipaddress.ip_address(
    "168.63.129.16"
)  # answers inside every virtual network of Azure, though it looks public

# Ranges without public hosts that some Python versions call global.
_NEVER_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)


class HostPort:
    """One entry of an allow-list: ``HOST`` for every port, or ``HOST:PORT``; IPv6 as ``::1`` or ``[::1]:PORT``."""

    __slots__ = ("host", "port")

    def __init__(self, entry: str) -> None:
        """Parse ``entry``; raises UsageError when it is neither form."""
        self.host, self.port = _split_entry(entry)

    def matches(self, host: str, port: int) -> bool:
        """Tell whether a URL with this host and port is meant."""
        return self.host == normal_host(host) and self.port in (None, port)


def normal_host(host: str) -> str:
    """Return the one spelling of ``host`` that allow-lists compare: lower case, no brackets, no dot at the end."""
    plain = host.strip("[]").rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(plain))
    except ValueError:
        return plain


def never() -> bool:
    """Return False: nobody gives up."""
    return False


def resolve(
    name: str,
    host: str,
    port: int,
    allow_source: Sequence[str],
    *,
    timeout_s: float = 60.0,
    given_up: Callable[[], bool] = never,
) -> list[str]:
    """Resolve ``host`` once and return its addresses, which connections are pinned to; all are allowed.

    Every spelling of an address (decimal, octal, short, mapped) ends in the same check, because what is checked is
    what was resolved. ``name`` is what messages call the source. ``given_up`` is asked now and then whether anybody
    still waits. Raises SourceUnavailable when the host has no address in time, or one that is not public and not in
    ``allow_source``; UsageError for an entry that is no HOST[:PORT].
    """
    allowed = any(entry.matches(host, port) for entry in [HostPort(entry) for entry in allow_source])
    lookup = _Lookup(host, port)
    try:
        addresses = lookup.wait(timeout_s, given_up)
    except (OSError, UnicodeError) as error:
        raise SourceUnavailable(f"{name}: the host {host} cannot be resolved; check its name") from error
    if addresses is None:
        raise SourceUnavailable(f"{name}: the host {host} is not resolved in time; try again later")
    if not addresses:
        raise SourceUnavailable(f"{name}: the host {host} has no address")
    if not allowed:
        _refuse_private(name, host, port, addresses)
    return addresses[:_ADDRESSES_MAX]


class _Lookup:
    """One question to the system's resolver, which knows no deadline: it is asked in a thread that may stay behind."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._done = threading.Event()
        self._addresses: list[str] = []
        self._error: Exception | None = None
        threading.Thread(target=self._run, name="resolving", daemon=True).start()

    def wait(self, timeout_s: float, given_up: Callable[[], bool]) -> list[str] | None:
        """Return the addresses in the resolver's order, or None when there is no answer in time. Raises its error."""
        deadline = time.monotonic() + timeout_s
        while not self._done.wait(_LOOK_S):
            if time.monotonic() >= deadline or given_up():
                return None
        if self._error is not None:
            raise self._error
        return self._addresses

    def _run(self) -> None:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            # A dict keeps the resolver's order, which prefers what is reachable.
            self._addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        except Exception as error:  # raised again in the thread that waits
            self._error = error
        finally:
            self._done.set()


def why_not_public(address: Address) -> str | None:
    """Return in words what kind of address this is when it is not a public unicast one, else None."""
    embedded = _embedded_v4(address)
    if embedded is not None:
        return why_not_public(embedded)
    kinds = (
        (address.is_unspecified, "unspecified"),
        (address.is_loopback, "loopback"),
        (address.is_link_local, "link-local"),
        (address.is_multicast, "multicast"),
        (address.version == 4 and address in _SHARED, "carrier-grade NAT"),
        (address.is_private, "private"),
        (address.is_reserved, "reserved"),
        (address == _PLATFORM, "cloud platform"),
        (any(address in network for network in _NEVER_PUBLIC), "special-purpose"),
        (not address.is_global, "not public"),
    )
    return next((kind for holds, kind in kinds if holds), None)


def _embedded_v4(address: Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that traffic to ``address`` would end at, for mapped, NAT64 and 6to4 addresses."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.sixtofour


def _refuse_private(name: str, host: str, port: int, addresses: Iterable[str]) -> None:
    for address in addresses:
        kind = why_not_public(ipaddress.ip_address(address))
        if kind is not None:
            raise SourceUnavailable(
                f"{name}: the host {host} has a {kind} address, which is refused; "
                f"an operator may allow it: --allow-source {_entry(host, port)}"
            )


def _entry(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _split_entry(entry: str) -> tuple[str, int | None]:
    host, port = entry, ""
    # An IPv6 address without brackets is all host.
    if not _is_address(entry):
        head, colon, tail = entry.rpartition(":")
        if colon and not entry.endswith("]"):
            host, port = head, tail
            if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
                raise UsageError(f"{entry!r} is not HOST or HOST:PORT; write an IPv6 address in brackets")
    host = normal_host(host)
    if not host or (":" in host and not _is_address(host)) or not host.isprintable() or " " in host or "/" in host:
        raise UsageError(f"{entry!r} is not HOST or HOST:PORT")
    return host, int(port) if port else None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
