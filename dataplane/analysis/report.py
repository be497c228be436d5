"""The report of a tuning run: one file for a browser, which needs nothing else and asks no network."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from dataplane.errors import IoFailed

TEMPLATE = Path(__file__).with_name("report.html")
PLACE = "/*DATA*/null"


def write_report(path: str | os.PathLike[str], fields: Mapping[str, object]) -> None:
    """Write the report of ``tune_fields`` to `path`; the file appears whole or not at all. Raises IoFailed."""
    target = Path(path)
    beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        beside.write_text(render(fields), encoding="utf-8")
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise IoFailed(f"the report {target} cannot be written: {error.strerror}") from error


def render(fields: Mapping[str, object]) -> str:
    """Return the page. Names of sources are hostile: nothing in the data can end the script that holds it."""
    data = json.dumps(fields, separators=(",", ":"))
    for mark, code in (
        ("&", "\\u0026"),
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        data = data.replace(mark, code)
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACE, data, 1)
