"""Opens a source without waiting for it longer than the operation lives."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dataplane import ImageSource
from dataplane.errors import Cancelled

LOOK_S = 0.05


def open_unless_cancelled(open_it: Callable[[], ImageSource], cancelled: threading.Event) -> ImageSource:
    """Return what `open_it` returns; the caller closes it. Raises what it raises, or Cancelled.

    A first answer that a server holds back cannot be interrupted, so it is waited for in a thread, which is left behind
    when `cancelled` is set: it ends within the time limit of its read and closes what it has opened.
    """
    opening = _Opening(open_it)
    thread = threading.Thread(target=opening.run, name="opening", daemon=True)
    thread.start()
    while thread.is_alive() and not cancelled.is_set():
        thread.join(LOOK_S)
    return opening.take(cancelled)


class _Opening:
    """What one thread opens for another, which may have lost interest by then."""

    def __init__(self, open_it: Callable[[], ImageSource]) -> None:
        self._open_it = open_it
        self._lock = threading.Lock()
        self._abandoned = False
        self._source: ImageSource | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        """Open the source; close it again when nobody waits for it any more."""
        try:
            source = self._open_it()
        except Exception as error:  # raised again in the thread that waits
            self._error = error
            return
        with self._lock:
            if not self._abandoned:
                self._source = source
                return
        source.close()

    def take(self, cancelled: threading.Event) -> ImageSource:
        """Return the source or raise the error; abandon both when the work was cancelled."""
        with self._lock:
            self._abandoned = True
            source = self._source
        if cancelled.is_set():
            if source is not None:
                source.close()
            raise Cancelled("cancelled while the source was opened")
        if self._error is not None:
            raise self._error
        if source is None:
            raise AssertionError("the thread ended with neither a source nor an error")
        return source
