"""What a server can be told, and by whom: defaults, then `dataplane.toml`, then the environment, then flags."""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from dataplane.errors import UsageError

CONFIG_VARIABLE = "DATAPLANE_CONFIG"
CONFIG_DEFAULT = Path("/etc/dataplane/dataplane.toml")
_PREFIX = "DATAPLANE_"
_OTHER_VARIABLES = ("TOKEN", "CPU", "DEBUG", "ANNOTATE", "SANITIZE", "BENCH_MIB", "CONFIG")
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

Value = str | int | bool | tuple[str, ...] | None


class Kind(Enum):
    """How the text of a value is read."""

    TEXT = "text"
    NUMBER = "number"
    SIZE = "size"  # in bytes, with K, M, G, T for powers of 1024
    SWITCH = "switch"
    LIST = "list"  # separated by commas in the environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One thing a server can be told. Its dots are tables in the file."""

    key: str
    kind: Kind = Kind.TEXT
    default: Value = None
    metavar: str = "VALUE"
    help: str
    hides_password: bool = False
    """Whether it is a URL whose password and options are not shown."""

    @property
    def flag(self) -> str:
        """Return the option of the command line."""
        return "--" + self.key.replace(".", "-").replace("_", "-")

    @property
    def variable(self) -> str:
        """Return the name in the environment."""
        return _PREFIX + self.key.replace(".", "_").upper()


SETTINGS = (
    Setting(key="data", metavar="DIR", help="folder of the store and the catalogue; made when missing"),
    Setting(
        key="database",
        metavar="URL",
        help="PostgreSQL database for the catalogue and a new store's ledger, instead of a file in the data folder",
        hides_password=True,
    ),
    Setting(key="listen", default="127.0.0.1:9443", metavar="HOST:PORT", help="gRPC; port 0 is any free one"),
    Setting(key="announce", metavar="HOST:PORT", help="address told to SDKs; default: the one listened on"),
    Setting(
        key="dev", kind=Kind.SWITCH, default=False, help="own authority, any bearer token, http and loopback sources"
    ),
    Setting(key="insecure", kind=Kind.SWITCH, default=False, help="no TLS; on loopback only"),
    Setting(key="tls.cert", metavar="FILE", help="certificate chain in PEM; read again when it changes"),
    Setting(key="tls.key", metavar="FILE", help="private key of the certificate in PEM"),
    Setting(key="tls.client_ca", metavar="FILE", help="clients must show a certificate that this authority signed"),
    Setting(key="auth", metavar="MODE", help="who may call: none (loopback only), tokens:FILE or jwt:JWKS_FILE"),
    Setting(key="policy", metavar="FILE", help="which subjects may do what in which folders (TOML)"),
    Setting(key="jwt.issuer", metavar="URL", help="with --auth jwt: what iss has to be"),
    Setting(key="jwt.audience", metavar="NAME", help="with --auth jwt: what aud has to hold"),
    Setting(
        key="allow_source",
        kind=Kind.LIST,
        default=(),
        metavar="HOST[:PORT]",
        help="a host that may be read from although its address is private; may be repeated",
    ),
    Setting(key="workers", kind=Kind.NUMBER, default=2, metavar="N", help="imports at once"),
    Setting(
        key="worker.memory", kind=Kind.SIZE, default="2G", metavar="SIZE", help="data memory of each worker process"
    ),
    Setting(
        key="worker.sandbox",
        default="auto",
        metavar="auto|require|off",
        help="confine workers as far as this kernel can; require: refuse to work otherwise",
    ),
    Setting(key="quotas.images", kind=Kind.NUMBER, metavar="N", help="images of one folder; default: no bound"),
    Setting(key="quotas.bytes", kind=Kind.SIZE, metavar="SIZE", help="stored bytes of a folder's images"),
    Setting(key="quotas.pooled_images", kind=Kind.NUMBER, metavar="N", help="pooled images of one folder"),
    Setting(key="quotas.disks", kind=Kind.NUMBER, metavar="N", help="disks of one folder"),
    Setting(key="quotas.disk_bytes", kind=Kind.SIZE, metavar="SIZE", help="sizes of a folder's disks together"),
    Setting(key="quotas.snapshots", kind=Kind.NUMBER, metavar="N", help="snapshots of one folder"),
    Setting(
        key="quotas.snapshot_bytes",
        kind=Kind.SIZE,
        metavar="SIZE",
        help="sizes that the disks of a folder's snapshots had, together",
    ),
    Setting(key="quotas.operations", kind=Kind.NUMBER, metavar="N", help="unfinished operations of one folder"),
    Setting(key="nbd.listen", metavar="HOST:PORT", help="serve disks over NBD to those who were given a token"),
    Setting(
        key="nbd.cache", kind=Kind.SIZE, default="128M", metavar="SIZE", help="memory for decoded chunks of those disks"
    ),
    Setting(
        key="pool.size",
        kind=Kind.SIZE,
        default="64M",
        metavar="SIZE",
        help="with --nbd-listen: file for each pooled image with what is read first; 0: none",
    ),
    Setting(key="pool.total", kind=Kind.SIZE, default="8G", metavar="SIZE", help="those files together"),
    Setting(key="metrics_listen", metavar="HOST:PORT", help="serve Prometheus metrics over http"),
    Setting(key="rest_listen", metavar="HOST:PORT", help="serve the REST mapping (dataplane[rest])"),
    Setting(
        key="traces",
        default="off",
        metavar="off|otlp",
        help="send OpenTelemetry traces (dataplane[otel]) as OTEL_* say",
    ),
    Setting(key="log_level", default="info", metavar="LEVEL", help="debug, info, warning or error"),
)
BY_KEY: Mapping[str, Setting] = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Sourced:
    """A value and where it came from."""

    value: Value
    origin: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting by key; `unknown_variables` are names in the environment that look like settings and are none."""

    values: Mapping[str, Sourced]
    unknown_variables: tuple[str, ...] = ()

    def text(self, key: str) -> str | None:
        """Return a text; None when it was not given."""
        value = self.values[key].value
        return value if isinstance(value, str) and value else None

    def number(self, key: str) -> int | None:
        """Return a number, of bytes where it is a size; None when it was not given."""
        value = self.values[key].value
        return value if isinstance(value, int) else None

    def switch(self, key: str) -> bool:
        """Say whether a switch is on."""
        return self.values[key].value is True

    def listed(self, key: str) -> tuple[str, ...]:
        """Return a list."""
        value = self.values[key].value
        return value if isinstance(value, tuple) else ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and a flag for each setting; what is not given leaves no trace in the namespace."""
    parser.add_argument("--config", metavar="FILE", help=f"default: ${CONFIG_VARIABLE}, or {CONFIG_DEFAULT} if there")
    for setting in SETTINGS:
        default = setting.default if setting.default not in (None, (), False) else None
        text = setting.help + (f"; default {default}" if default is not None else "")
        if setting.kind is Kind.SWITCH:
            parser.add_argument(
                setting.flag,
                dest=setting.key,
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=text,
            )
        else:
            parser.add_argument(
                setting.flag,
                dest=setting.key,
                default=argparse.SUPPRESS,
                metavar=setting.metavar,
                help=text,
                action="append" if setting.kind is Kind.LIST else "store",
            )


def resolve(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Settings:
    """Return every setting with its origin. Raises UsageError that names the value or key that is wrong."""
    values = {key: Sourced(_read(BY_KEY[key], setting.default, key), "default") for key, setting in BY_KEY.items()}
    path = _config_path(getattr(arguments, "config", None), environment)
    if path is not None:
        for key, given in _from_file(path):
            values[key] = Sourced(_read(BY_KEY[key], given, f"{path}: {key}"), str(path))
    for setting in SETTINGS:
        if setting.variable in environment:
            given = environment[setting.variable]
            values[setting.key] = Sourced(_read(setting, given, setting.variable), setting.variable)
    for key, given in vars(arguments).items():
        if key in BY_KEY:
            values[key] = Sourced(_read(BY_KEY[key], given, BY_KEY[key].flag), BY_KEY[key].flag)
    return Settings(values, tuple(_unknown_variables(environment)))


def _config_path(flag: str | None, environment: Mapping[str, str]) -> Path | None:
    named = flag or environment.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    return CONFIG_DEFAULT if CONFIG_DEFAULT.exists() else None


def _from_file(path: Path) -> Iterator[tuple[str, object]]:
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    groups = {key.partition(".")[0] for key in BY_KEY if "." in key}
    for key, value in table.items():
        if key in groups and isinstance(value, dict):
            for inner, given in value.items():
                yield _known(f"{key}.{inner}", path), given
        else:
            yield _known(key, path), value


def _known(key: str, path: Path) -> str:
    if key not in BY_KEY:
        raise UsageError(f"{path}: {key!a} is not a setting: `dataplane config show` lists those there are")
    return key


def _unknown_variables(environment: Mapping[str, str]) -> Iterator[str]:
    known = {setting.variable for setting in SETTINGS} | {_PREFIX + name for name in _OTHER_VARIABLES}
    yield from sorted(name for name in environment if name.startswith(_PREFIX) and name not in known)


def _read(setting: Setting, given: object, where: str) -> Value:
    """Return a value of the setting's kind, from a file's own type or from text. Raises UsageError."""
    if given is None:
        return None
    match setting.kind:
        case Kind.TEXT if isinstance(given, str):
            return given
        case Kind.NUMBER | Kind.SIZE if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
            return given
        case Kind.NUMBER if isinstance(given, str) and given.isascii() and given.isdigit():
            return int(given)
        case Kind.SIZE if isinstance(given, str):
            return _size(given, where)
        case Kind.SWITCH if isinstance(given, bool):
            return given
        case Kind.SWITCH if isinstance(given, str) and given.lower() in ("1", "true", "yes", "0", "false", "no", ""):
            return given.lower() in ("1", "true", "yes")
        case Kind.LIST if isinstance(given, str):
            return tuple(word.strip() for word in given.split(",") if word.strip())
        case Kind.LIST if isinstance(given, (list, tuple)) and all(isinstance(word, str) for word in given):
            return tuple(given)
    raise UsageError(f"{where} {given!r} is not a {setting.kind.value}")


def _size(text: str, where: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f"{where} {text!r} is not a size such as 512M or 2G")
    return int(match[1]) * _SIZE_UNITS[match[2].upper()]
