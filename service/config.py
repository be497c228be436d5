"""What a server and its workers are told when they start; checked once, then frozen."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self, TypeVar

from dataplane.errors import UsageError
from service.quotas import Quotas
from service.settings import BY_KEY, Settings

WORKERS_MAX = 64
WORKER_MEMORY_DEFAULT = 2 << 30
WORKER_MEMORY_MIN = 256 << 20
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


class AuthMode(StrEnum):
    """How callers are told apart."""

    DEV = "dev"
    NONE = "none"
    TOKENS = "tokens"
    JWT = "jwt"


class Sandbox(StrEnum):
    """How much confinement workers need."""

    AUTO = "auto"
    REQUIRE = "require"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """How callers are told apart, and the files that say so."""

    mode: AuthMode
    file: Path | None = None
    policy: Path | None = None
    issuer: str = ""
    audience: str = ""

    def __post_init__(self) -> None:
        if self.mode not in (AuthMode.TOKENS, AuthMode.JWT):
            return
        if self.file is None:
            raise UsageError(f"--auth {self.mode} names no file: write --auth {self.mode}:FILE")
        if self.policy is None:
            raise UsageError(f"--auth {self.mode} needs --policy FILE: without it nobody may do anything")
        if self.mode is AuthMode.JWT and not (self.issuer and self.audience):
            raise UsageError("--auth jwt needs --jwt-issuer and --jwt-audience: a token for others is none for us")

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Read ``--auth`` and what belongs to it; ``--dev`` is a mode of its own. Raises UsageError."""
        given = settings.text("auth")
        if settings.switch("dev"):
            if given is not None:
                raise UsageError("--dev accepts any token: leave --auth out, or leave --dev out")
            return cls(mode=AuthMode.DEV)
        if given is None:
            raise UsageError(
                "no way to check tokens is configured: give --auth, or start with --dev on a machine of your own"
            )
        word, _, file = given.partition(":")
        if word not in (AuthMode.NONE, AuthMode.TOKENS, AuthMode.JWT) or (file and word == AuthMode.NONE):
            raise UsageError(f"--auth {given!r} is none of none, tokens:FILE and jwt:JWKS_FILE")
        return cls(
            mode=AuthMode(word),
            file=Path(file) if file else None,
            policy=_path(settings, "policy"),
            issuer=settings.text("jwt.issuer") or "",
            audience=settings.text("jwt.audience") or "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files of the server's certificate; all None: --dev's own, or none at all with `insecure`."""

    cert: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise UsageError("--tls-cert and --tls-key belong together: give both")
        if self.insecure and (self.cert is not None or self.client_ca is not None):
            raise UsageError("--insecure means no TLS: leave --tls-cert, --tls-key and --tls-client-ca out")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkConfig:
    """What `dataplane worker` is told: where the work is, and how it may be done."""

    data_dir: Path
    workers: int
    dev: bool = False
    allow_source: tuple[str, ...] = ()
    worker_memory: int = WORKER_MEMORY_DEFAULT
    sandbox: Sandbox = Sandbox.AUTO
    metrics_listen: Address | None = None
    traces: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= WORKERS_MAX:
            raise UsageError(f"--workers {self.workers} is not in the range 1 to {WORKERS_MAX}")
        if self.worker_memory < WORKER_MEMORY_MIN:
            raise UsageError(f"--worker-memory {self.worker_memory} is below {WORKER_MEMORY_MIN} bytes")
        for source in self.allow_source:
            if _SOURCE.fullmatch(source) is None:
                raise UsageError(f"--allow-source {source!r} is not HOST or HOST:PORT")

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Check what the settings say together. Raises UsageError."""
        return cls(**_work(settings))

    @property
    def store_path(self) -> Path:
        """The folder of the store; its ledger's file holds the catalogue too."""
        return self.data_dir / "store"

    @property
    def disks_path(self) -> Path:
        """The folder of the overlays of disks."""
        return self.data_dir / "disks"

    def for_worker(self, owner: str) -> WorkerConfig:
        """Return what the process that is to work as `owner` is told."""
        loopback = ("localhost", "127.0.0.1", "[::1]") if self.dev else ()
        return WorkerConfig(
            data_dir=str(self.data_dir),
            store_path=str(self.store_path),
            disks_path=str(self.disks_path),
            owner=owner,
            allow_source=(*self.allow_source, *loopback),
            allow_http=self.dev,
            memory=self.worker_memory,
            sandbox=self.sandbox,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig(WorkConfig):
    """Everything `dataplane serve` is told."""

    listen: Address
    announce: Address | None  # None: the address that was bound
    auth: Auth
    tls: Tls = field(default_factory=Tls)
    quotas: Quotas = field(default_factory=Quotas)
    rest_listen: Address | None = None
    nbd_listen: Address | None = None
    nbd_cache: int = 128 << 20
    pool_size: int = 64 << 20
    pool_total: int = 8 << 30
    database: str | None = None  # None: a file in the store's folder

    def __post_init__(self) -> None:
        WorkConfig.__post_init__(self)
        if self.dev is not (self.auth.mode is AuthMode.DEV):
            raise UsageError("--dev is a way to check tokens of its own")
        listeners = {"--listen": self.listen, "--rest-listen": self.rest_listen, "--nbd-listen": self.nbd_listen}
        for flag, address in listeners.items():
            if address is not None and not address.is_loopback():
                self._check_reachable(flag, address)
        if self.tls.cert is None and not self.dev and not self.tls.insecure:
            raise UsageError("no certificate is configured: give --tls-cert and --tls-key, --insecure, or --dev")

    def _check_reachable(self, flag: str, address: Address) -> None:
        """Refuse what only a listener that others cannot reach may do."""
        if self.auth.mode is AuthMode.DEV:
            raise UsageError(f"--dev accepts any token and binds to loopback only: {flag} {address.host} is not")
        if self.auth.mode is AuthMode.NONE:
            raise UsageError(f"--auth none lets all in and binds to loopback only: {flag} {address.host} is not")
        if self.tls.insecure:
            raise UsageError(f"--insecure shows tokens to all and binds to loopback only: {flag} {address.host} is not")

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Check what the settings say together. Raises UsageError."""
        work = _work(settings)
        listen = _address(settings, "listen")
        if listen is None:
            raise UsageError("--listen is empty: give HOST:PORT")
        return cls(
            **work,
            listen=listen,
            announce=_address(settings, "announce"),
            auth=Auth.from_settings(settings),
            tls=Tls(
                cert=_path(settings, "tls.cert"),
                key=_path(settings, "tls.key"),
                client_ca=_path(settings, "tls.client_ca"),
                insecure=settings.switch("insecure"),
            ),
            quotas=quotas_of(settings),
            rest_listen=_address(settings, "rest_listen"),
            nbd_listen=_address(settings, "nbd.listen"),
            nbd_cache=settings.number("nbd.cache") or 0,
            pool_size=settings.number("pool.size") or 0,
            pool_total=settings.number("pool.total") or 0,
            database=settings.text("database"),
        )

    @property
    def pool_path(self) -> Path:
        """The folder of the files of pooled images."""
        return self.data_dir / "pool"

    @property
    def tls_dir(self) -> Path:
        """Where --dev keeps its own authority and certificate."""
        return self.data_dir / "tls"


def _work(settings: Settings) -> dict[str, Any]:
    """Return the fields of WorkConfig."""
    data = settings.text("data")
    if data is None:
        raise UsageError("no data folder is configured: give --data DIR")
    return {
        "data_dir": Path(data).absolute(),
        "workers": settings.number("workers") or 0,
        "dev": settings.switch("dev"),
        "allow_source": settings.listed("allow_source"),
        "worker_memory": settings.number("worker.memory") or 0,
        "sandbox": _one_of(settings, "worker.sandbox", Sandbox),
        "metrics_listen": _address(settings, "metrics_listen"),
        "traces": _one_of(settings, "traces", Traces) is Traces.OTLP,
    }


class Traces(StrEnum):
    """Where traces go."""

    OFF = "off"
    OTLP = "otlp"


def quotas_of(settings: Settings) -> Quotas:
    """Return the bounds of each folder; 0 is a bound too."""
    return Quotas(**{quota.name: settings.number(f"quotas.{quota.name}") for quota in fields(Quotas)})


def _address(settings: Settings, key: str) -> Address | None:
    text = settings.text(key)
    return Address.parse(text) if text is not None else None


def _path(settings: Settings, key: str) -> Path | None:
    text = settings.text(key)
    return Path(text).absolute() if text is not None else None


_Word = TypeVar("_Word", bound=StrEnum)


def _one_of(settings: Settings, key: str, words: type[_Word]) -> _Word:
    text = settings.text(key) or ""
    if text not in list(words):
        raise UsageError(f"{BY_KEY[key].flag} {text!r} is none of {', '.join(words)}")
    return words(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What a server tells a worker, as one line of JSON on its standard input."""

    data_dir: str
    store_path: str
    disks_path: str
    owner: str
    allow_source: tuple[str, ...]
    allow_http: bool
    memory: int = WORKER_MEMORY_DEFAULT
    sandbox: str = Sandbox.AUTO

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
