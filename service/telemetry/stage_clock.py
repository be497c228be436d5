"""Progress that also knows how long each stage took, and a count of reads that were tried again."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

from dataplane import Progress
from service.telemetry.reports import STAGES

_RETRY_LOGGER = "dataplane.retry"
_WORDS = (  # the first that fits decides
    ("the server answers", "status"),
    ("ends its answer early", "early_end"),
    ("in time", "timeout"),
    ("timed out", "timeout"),
    ("connect", "connection"),
    ("refused", "connection"),
    ("reset", "connection"),
)


class TimedProgress(Progress):
    """Progress of one operation; `stage` is noted whenever it changes."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._since = ("", time.monotonic())
        super().__init__()

    def __setattr__(self, name: str, value: object) -> None:
        if name == "stage":
            self._note(str(value))
        super().__setattr__(name, value)

    def stage_seconds(self) -> dict[str, float]:
        """Return the seconds spent in each stage up to now."""
        self._note(self._since[0])
        return dict(self._spent)

    def _note(self, stage: str) -> None:
        now = time.monotonic()
        before, since = self._since
        if before in STAGES:
            self._spent[before] = self._spent.get(before, 0.0) + now - since
        object.__setattr__(self, "_since", (stage, now))

    def bytes_by_kind(self) -> dict[str, int]:
        """Return the bytes passed, by the names that reports have for them."""
        shot = self.snapshot()
        return {
            "read": shot.read_bytes,
            "zero": shot.zero_bytes,
            "duplicate": shot.duplicate_bytes,
            "new": shot.new_bytes,
            "written": shot.written_bytes,
        }


class RetryCounter(logging.Handler):
    """Counts what the readers tell of attempts that are made again, by reason; the texts go nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: Counter[str] = Counter()
        self._guard = threading.Lock()

    def install(self) -> None:
        """Listen to the readers of this process."""
        logger = logging.getLogger(_RETRY_LOGGER)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Count one retry."""
        text = record.getMessage()
        reason = next((reason for words, reason in _WORDS if words in text), "other")
        with self._guard:
            self._counts[reason] += 1

    def take(self) -> dict[str, int]:
        """Return the counts since the last time."""
        with self._guard:
            counts, self._counts = dict(self._counts), Counter()
        return counts
