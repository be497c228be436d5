"""`dataplane token new`: a token for its holder, and the entry that lets a server know it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dataplane.errors import IoFailed, UsageError
from service.identity import token_file
from service.identity.modes import SUBJECT_LENGTH_MAX

DAYS_MAX = 36500


def new(args: argparse.Namespace) -> int:
    """Print a new token; its entry goes to ``--file``, or to standard output too. Raises UsageError or IoFailed."""
    if not 0 < len(args.subject) <= SUBJECT_LENGTH_MAX or not args.subject.isprintable() or args.subject == "*":
        raise UsageError(f"--subject {args.subject!r} is not a name of at most {SUBJECT_LENGTH_MAX} characters")
    if args.days is not None and not 0 < args.days <= DAYS_MAX:
        raise UsageError(f"--days {args.days} is not in the range 1 to {DAYS_MAX}")
    token, token_id = token_file.new_token()
    entry = _entry(token, token_id, args.subject, args.days)
    token_file.parse(entry.encode())  # what is written can be read
    if args.file is None:
        sys.stdout.write(f"token: {token}\n\n{entry}")
        return 0
    _append(Path(args.file), entry)
    sys.stdout.write(f"{token}\n")
    return 0


def _entry(token: str, token_id: str, subject: str, days: int | None) -> str:
    lines = [
        "[[token]]",
        f'id = "{token_id}"',
        f"subject = {json.dumps(subject)}",  # printable text is written alike in JSON and TOML
        f'sha256 = "{token_file.digest_of(token)}"',
    ]
    if days is not None:
        ends = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
        lines.append(f"expires = {ends.isoformat().replace('+00:00', 'Z')}")
    return "\n".join(lines) + "\n"


def _append(path: Path, entry: str) -> None:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "a") as file:
            file.write(entry if file.tell() == 0 else f"\n{entry}")
    except OSError as error:
        raise IoFailed(f"{path} cannot be written: {error.strerror}") from error
