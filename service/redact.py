"""Keeps what may be secret in a URL out of messages: its query, fragment and user info."""

from __future__ import annotations

import re

_TAIL = re.compile(r"(?i)\b(https?://[^\s?#\"'<>]*)[?#][^\s\"'<>]*")
_USER = re.compile(r"(?i)\b(https?://)[^\s/?#\"'<>]*@")


def redact(text: str) -> str:
    """Return `text` with the query and user info of every URL in it masked."""
    return _USER.sub(r"\1…@", _TAIL.sub(r"\1?…", text))


def one_line(text: str, limit: int = 1000) -> str:
    """Return redacted text as one printable line of at most `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in redact(text)).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
