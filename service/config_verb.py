"""`dataplane config show`: every setting, its value, and who said so."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from urllib.parse import urlsplit

from service import settings
from service.settings import Settings, Value


def show(args: argparse.Namespace) -> int:
    """Print the settings that `dataplane serve` with the same arguments would have. Raises UsageError."""
    resolved = without_passwords(settings.resolve(args))
    sys.stdout.write(_as_json(resolved) if args.json else _as_table(resolved))
    for name in resolved.unknown_variables:
        sys.stderr.write(f"dataplane: {name} is ignored: it is no setting\n")
    return 0


def without_passwords(resolved: Settings) -> Settings:
    """Return settings that may be shown."""
    hidden = {
        setting.key: replace(sourced, value=without_password(sourced.value))
        for setting in settings.SETTINGS
        if setting.hides_password and isinstance((sourced := resolved.values[setting.key]).value, str)
    }
    return replace(resolved, values={**resolved.values, **hidden})


def without_password(url: str) -> str:
    """Return a database's URL without password and options."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"


def _as_json(resolved: Settings) -> str:
    rows = [{"key": key, "value": sourced.value, "origin": sourced.origin} for key, sourced in resolved.values.items()]
    return json.dumps(rows, indent=1) + "\n"


def _as_table(resolved: Settings) -> str:
    rows = [(key, _shown(sourced.value), sourced.origin) for key, sourced in resolved.values.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{key:<{widths[0]}}  {value:<{widths[1]}}  {origin}".rstrip() for key, value, origin in rows]
    return "\n".join(lines) + "\n"


def _shown(value: Value) -> str:
    match value:
        case None | ():
            return "-"
        case bool():
            return "true" if value else "false"
        case tuple():
            return ",".join(value)
    return str(value)
