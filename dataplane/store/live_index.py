"""An index that keeps up: work that takes hours finds what others have published meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time

from dataplane.errors import DataplaneError
from dataplane.store.store import Store

REFRESH_S = 2.0


class LiveIndex:
    """The look-up of what new images may rely on, looked at anew every `refresh_s` seconds. Safe for concurrent use.

    What is found in packs that were published after the work's lease was taken is as safe as the rest: they can only
    be condemned at a later epoch, and are then kept for as long as the lease is held.
    """

    def __init__(self, store: Store, refresh_s: float = REFRESH_S) -> None:
        """Open the index; raises Corrupt."""
        self._store = store
        self._refresh_s = refresh_s
        self._index = store.index(for_writing=True)
        self._looked_at = time.monotonic()
        self._lock = threading.Lock()

    def mark_stored(self, ids: memoryview, states: memoryview) -> tuple[int, int]:
        """Turn NEW states whose id is stored into STORED; return (how many, sum of their stored lengths in bytes)."""
        if time.monotonic() - self._looked_at >= self._refresh_s and self._lock.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._lock.release()
        return self._index.mark_stored(ids, states)

    def _refresh(self) -> None:
        self._looked_at = time.monotonic()
        with contextlib.suppress(DataplaneError):  # what was found so far stays good
            if set(self._store.ledger.runs()) != set(self._index.names):
                self._index = self._store.index(for_writing=True)
