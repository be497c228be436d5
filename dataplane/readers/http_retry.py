"""How long a read from a URL may take: one budget of time for all attempts, renewed only by progress."""

from __future__ import annotations

import logging
import random
import threading
import time
from email.utils import parsedate_to_datetime

from dataplane.errors import SourceUnavailable

_log = logging.getLogger("dataplane.retry")  # silent, unless whoever uses the library listens

ATTEMPTS_MAX = 10
"""Requests without progress between them."""

_PAUSE_FIRST_S = 0.1
_PAUSE_MAX_S = 5.0


class Transient(Exception):
    """An attempt failed in a way that may pass; the text says how, and ``retry_after_s`` what the server asked for.

    ``attempts_max`` is lower for what rarely passes.
    """

    def __init__(self, problem: str, retry_after_s: float | None = None, attempts_max: int = ATTEMPTS_MAX) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s
        self.attempts_max = attempts_max


class RetryBudget:
    """The time and attempts that one read has left."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self.deadline = self.renew()

    def renew(self) -> float:
        """Start anew, because bytes have arrived; return the new deadline."""
        self.deadline = time.monotonic() + self._timeout_s
        self._attempts = 0
        return self.deadline

    def remaining_s(self) -> float:
        """Return the seconds left, more than 0; raises Transient when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Transient("no answer in time")
        return left

    def pause(self, failure: Transient, closed: threading.Event) -> None:
        """Wait before the next attempt, or less when ``closed`` is set.

        Raises SourceUnavailable when the budget does not allow another attempt.
        """
        self._attempts += 1
        pause_s = failure.retry_after_s
        if pause_s is None:
            # Jitter keeps many readers that failed together from coming back together.
            ceiling_s = min(_PAUSE_MAX_S, _PAUSE_FIRST_S * 2 ** (self._attempts - 1))
            pause_s = ceiling_s * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        left_s = self.deadline - time.monotonic()
        if self._attempts >= min(failure.attempts_max, ATTEMPTS_MAX) or pause_s >= left_s:
            tries = "1 attempt" if self._attempts == 1 else f"{self._attempts} attempts"
            asked = f", and asks to wait {pause_s:.0f} s" if failure.retry_after_s is not None else ""
            raise SourceUnavailable(
                f"{self._name}: {failure}{asked}; given up after {tries} within {self._timeout_s:g} s, try again later"
            )
        _log.info("%s", failure)
        closed.wait(pause_s)


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for (a number or a date), or None when it says nothing."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
