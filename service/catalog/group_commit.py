"""One writer for one process: changes that wait at the same moment share a transaction, and so one sync to the disk.

SQLite has one write lock, and a commit holds it until the disk has answered. When each of many callers commits for
itself they queue for that lock, and processes beside them, asleep between tries, get in between.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import Connection

BATCH_MAX = 64


@dataclass(slots=True, eq=False)
class Change:
    """A function that changes the database, and what became of it."""

    work: Callable[[Connection], Any]
    durable: bool
    result: Any = None
    error: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class GroupCommit:
    """A thread that hands changes, in the order they came, to `commit`, as many at once as are waiting."""

    def __init__(self, commit: Callable[[Sequence[Change]], None]) -> None:
        """`commit` sets the result or error of each change it is given; what it raises becomes the error of all."""
        self._commit = commit
        self._waiting: deque[Change] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, work: Callable[[Connection], Any], *, durable: bool) -> Any:
        """Run `work` in the writer's transaction; return what it returns once that is committed."""
        change = Change(work, durable)
        with self._changed:
            if self._closed:
                raise RuntimeError("the database is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="catalogue-writer", daemon=True)
                self._thread.start()
            if threading.current_thread() is self._thread:
                raise RuntimeError("a change of the database tried to begin another one")
            self._waiting.append(change)
            self._changed.notify()
        change.ended.wait()
        if change.error is not None:
            raise change.error
        return change.result

    def close(self) -> None:
        """Commit what is waiting and end the thread; a second call does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _write(self) -> None:
        while batch := self._next():
            try:
                self._commit(batch)
            except BaseException as error:
                for change in batch:
                    change.error = error
            for change in batch:
                change.ended.set()

    def _next(self) -> list[Change]:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]
