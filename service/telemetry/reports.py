"""What a worker tells the process that started it about each operation, as lines on its standard output.

A worker reads hostile input, so the reader believes nothing: sizes are bounded, words come from fixed lists, numbers
are finite and not negative. No names, ids or URLs of customers travel here.
"""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

LINE_LENGTH_MAX = 4096
STAGES = ("opening", "reading", "committing")
OUTCOMES = ("done", "failed", "cancelled", "returned", "lost")
BYTES = ("read", "zero", "duplicate", "new", "written")
RETRIES = ("status", "early_end", "timeout", "connection", "other")

Numbers = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How one operation of a worker ended.

    `code` is the gRPC code that it ended with; `stages` are seconds, `bytes` are those of the disk, but for `read`
    (source) and `written` (store); `retries` are reads of the source that were tried again, by reason.
    """

    outcome: str
    code: int = 0
    seconds: float = 0.0
    stages: Numbers = field(default_factory=dict)
    bytes: Numbers = field(default_factory=dict)
    retries: Numbers = field(default_factory=dict)

    def to_line(self) -> str:
        """Return the report as one line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self | None:
        """Read a line; None when it is not a report."""
        if len(line) > LINE_LENGTH_MAX:
            return None
        try:
            given = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(given, dict) or given.get("outcome") not in OUTCOMES:
            return None
        code = given.get("code")
        return cls(
            outcome=given["outcome"],
            code=code if type(code) is int and 0 <= code <= 16 else 2,
            seconds=_number(given.get("seconds")),
            stages=_numbers(given.get("stages"), STAGES),
            bytes=_numbers(given.get("bytes"), BYTES),
            retries=_numbers(given.get("retries"), RETRIES),
        )


class Reporter:
    """Writes reports to the process that started this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def send(self, report: Report) -> None:
        """Write one report; when nobody reads any more, it is lost."""
        with self._lock:
            try:
                sys.stdout.write(report.to_line())
                sys.stdout.flush()
            except OSError:
                pass


def _numbers(given: Any, names: tuple[str, ...]) -> dict[str, float]:
    if not isinstance(given, dict):
        return {}
    return {name: _number(given[name]) for name in names if name in given}


def _number(given: Any) -> float:
    if isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given) and given >= 0:
        return float(given)
    return 0.0
