"""Refuses connections to link-local addresses, where clouds keep the credentials of a machine, in Python itself.

The readers refuse them before this does; a hook of the interpreter that cannot be taken back stands behind them against
a defect there. It is no wall against native code: that is the machine's network (`IPAddressDeny` of systemd, say).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from ipaddress import IPv6Address, ip_address

_CONNECTS = ("socket.connect", "socket.sendto", "socket.sendmsg")


def refuse_link_local(allowed: Collection[str]) -> None:
    """Let connections to link-local and multicast addresses fail, except to hosts that are `allowed` by address.

    Unix sockets fail too, but for those of disks.
    """
    hosts = frozenset(name.rpartition(":")[0] or name for name in allowed) | frozenset(allowed)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in _CONNECTS or len(arguments) < 2:
            return
        target = arguments[1]
        if isinstance(target, (str, bytes)):
            _check_socket(os.fsdecode(target))
        elif isinstance(target, tuple) and target and isinstance(target[0], str) and target[0] not in hosts:
            _check(target[0])

    sys.addaudithook(hook)


def _check_socket(path: str) -> None:
    """Refuse Unix sockets but those by which a disk's owner takes requests."""
    if not path.endswith("/control"):
        raise PermissionError(f"connecting to {path} is refused to workers")


def _check(host: str) -> None:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:  # a name; the readers resolve before they connect
        return
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        raise PermissionError(f"connecting to {address} is refused to workers")
