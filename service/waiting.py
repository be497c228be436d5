"""Waiting in the first thread of a process for what a signal handler sets."""

from __future__ import annotations

import threading

LOOK_S = 0.5


def wait_for(event: threading.Event) -> None:
    """Return when `event` is set, at the latest half a second later.

    Handlers run in the first thread only, and the kernel may hand a signal to another one, which does not wake it.
    """
    while not event.wait(LOOK_S):
        pass
