"""A crew: several threads that do the same work until it is done or one of them fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def thread_count(asked: int | None) -> int:
    """Return how many threads to use: `asked`, or one for each core this process may run on."""
    return asked if asked else len(os.sched_getaffinity(0))


def run_crew(work: Callable[[], None], threads: int, stop: Callable[[], None]) -> None:
    """Run `work` in `threads` threads and wait for all of them.

    When one fails, or the waiting thread is interrupted, `stop` is called so that the others return soon; the first
    error is then raised here.
    """
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # it is raised again below, in the thread that waits
            failures.append(error)
            stop()

    crew = [threading.Thread(target=guarded, name=f"crew-{number}", daemon=True) for number in range(threads)]
    try:
        for member in crew:
            member.start()
        for member in crew:
            member.join()
    except BaseException:
        stop()
        for member in crew:
            if member.ident is not None:
                member.join()
        raise
    if failures:
        raise failures[0]
