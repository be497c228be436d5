"""What a server and its workers are told when they start; checked once, then frozen."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from dataplane.errors import UsageError

WORKERS_MAX = 64
_SOURCE = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port; port 0 asks for any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``HOST:PORT``, with brackets around an IPv6 address. Raises UsageError."""
        match = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})", text)
        if match is None or int(match["port"]) > 65535:
            raise UsageError(f"{text!r} is not HOST:PORT")
        return cls(match["six"] or match["host"], int(match["port"]))

    def is_loopback(self) -> bool:
        """Say whether the host is an address of this machine that others cannot reach."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Everything `dataplane serve` is told."""

    data_dir: Path
    listen: Address
    announce: Address | None  # None: the address that was bound
    dev: bool
    workers: int
    allow_source: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.dev:
            raise UsageError("no way to check tokens is configured: start with --dev, on a machine of your own")
        if not self.listen.is_loopback():
            raise UsageError(f"--dev accepts any token and binds to loopback only, not to {self.listen.host}")
        if not 1 <= self.workers <= WORKERS_MAX:
            raise UsageError(f"--workers {self.workers} is not in the range 1 to {WORKERS_MAX}")
        for source in self.allow_source:
            if _SOURCE.fullmatch(source) is None:
                raise UsageError(f"--allow-source {source!r} is not HOST or HOST:PORT")

    @property
    def store_path(self) -> Path:
        """The folder of the store; its ledger's file holds the catalogue too."""
        return self.data_dir / "store"

    @property
    def tls_dir(self) -> Path:
        """Where --dev keeps its own authority and certificate."""
        return self.data_dir / "tls"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What a server tells a worker, as one line of JSON on its standard input."""

    data_dir: str
    store_path: str
    owner: str
    allow_source: tuple[str, ...]
    allow_http: bool

    def to_line(self) -> str:
        """Return the line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read the line. Raises UsageError when it is not one."""
        try:
            values = json.loads(line)
            return cls(**values | {"allow_source": tuple(values["allow_source"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError("a worker is started by `dataplane serve` and reads its configuration from it") from error


def worker_owner(index: int, generation: int) -> str:
    """Return a name for a worker process that no other one has had: leases are held under it."""
    return f"{socket.gethostname()[:40]}/{os.getpid()}/{index}.{generation}/{os.urandom(4).hex()}"
