"""A gate that lets threads work side by side until one of them needs a moment in which nobody does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Counts the threads at work. Safe for concurrent use."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._working = 0
        self._closed = False
        self._failed = False

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Work inside the block, which begins once nobody wants to be alone. An error ends being alone for good."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._working += 1
        failed = True
        try:
            yield
            failed = False
        finally:
            with self._changed:
                self._working -= 1
                self._failed = self._failed or failed
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Give True once no other thread works, and keep them out while the block runs.

        False when another thread is about to be alone, or work has failed: then nothing is kept out.
        """
        with self._changed:
            mine = not (self._closed or self._failed)
            if mine:
                self._closed = True
                self._changed.wait_for(lambda: not self._working or self._failed)
        try:
            yield mine and not self._failed
        finally:
            if mine:
                with self._changed:
                    self._closed = False
                    self._changed.notify_all()
