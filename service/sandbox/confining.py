"""Confines this process as far as the kernel can, before it reads anything that others have made."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataplane.errors import UsageError
from service.sandbox import files, process_limits, system_calls

_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/dev/urandom", "/sys/devices/system")
_SETTINGS = tuple(  # not all of /etc: keys and tokens of the server lie there
    f"/etc/{name}"
    for name in (
        *("resolv.conf", "hosts", "host.conf", "hostname", "nsswitch.conf", "gai.conf", "services", "protocols"),
        *("ssl/certs", "ssl/cert.pem", "ssl/openssl.cnf", "pki/tls/certs", "pki/ca-trust", "crypto-policies"),
        *("ca-certificates", "localtime", "timezone", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "mime.types"),
    )
)
_RESOLVER = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/run/connman")
_PROCESS = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm", "/proc/sys/kernel")


@dataclass(frozen=True, slots=True)
class Confinement:
    """Which layers hold, and what is missing, as text for the log."""

    layers: tuple[str, ...]
    missing: tuple[str, ...]


def confine(
    *, memory: int, read: tuple[Path, ...], change: tuple[Path, ...], unix_sockets: bool, required: bool
) -> Confinement:
    """Give up what an import does not need. Call it in the first thread, before there are others.

    `memory` is in bytes of data; `read` and `change` are the files and folders needed beside those of Python and the
    system. Raises UsageError when `required` and a layer is not to be had.
    """
    layers, missing = ["limits", "no_new_privs"], []
    try:
        process_limits.apply(memory=memory)
        os.environ["SQLITE_TMPDIR"] = os.environ["TMPDIR"] = str(change[0]) if change else "/nonexistent"
    except OSError as error:
        raise UsageError(f"the worker cannot be limited: {error.strerror}") from error
    try:
        readable = [*read, *_of_python(), *_of_the_system()]
        layers.append(f"landlock {files.restrict(read=readable, change=[*change, Path(os.devnull)])}")
    except OSError as error:
        missing.append(f"landlock: {error.strerror or error}")
    try:
        system_calls.restrict(unix_sockets=unix_sockets)
        layers.append("seccomp")
    except OSError as error:
        missing.append(f"seccomp: {error.strerror or error}")
    if missing and required:
        raise UsageError(f"--worker-sandbox require, but {'; '.join(missing)}")
    return Confinement(tuple(layers), tuple(missing))


def _of_python() -> Iterator[Path]:
    """Yield where modules are: they are imported when they are first needed, also later."""
    names = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, *site.getsitepackages()}
    yield from (Path(name).resolve() for name in names if name)
    yield Path(__file__).resolve().parents[2]


def _of_the_system() -> Iterator[Path]:
    yield from map(Path, (*_SYSTEM, *_SETTINGS, *_RESOLVER, *_PROCESS))
