"""Turns: threads that worked side by side go on one after the other, by number."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets the holder of number 0 go first, then 1, and so on; every number has to come."""

    def __init__(self) -> None:
        self._next = 0
        self._stopped = False
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, number: int) -> Iterator[bool]:
        """Wait for the turn of `number`, and give it to the next one afterwards. False once stopped: nothing is to be
        done then."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._next == number)
            mine = not self._stopped
        yield mine
        with self._changed:
            self._next = number + 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Let everybody go: one who failed will not pass the turn on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
