"""Threads for calls that are over so soon that the bookkeeping of an ordinary pool would cost as much as they do.

Measured: an ordinary pool of two threads takes 20 microseconds of processor time to run nothing, this one 2; a Get
takes some 500. gRPC asks of a pool only that it is a ThreadPoolExecutor, and of a future only `add_done_callback`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

from service.log import get_logger

log = get_logger(__name__)


class QuickPool(ThreadPoolExecutor):
    """A fixed number of threads that take work in turn. What the work returns is dropped."""

    def __init__(self, threads: int, name: str) -> None:
        """The threads are called `name` and a number, and do not keep the process alive."""
        super().__init__(threads)  # which makes threads of its own in its own `submit` only
        self._calls: queue.SimpleQueue[tuple[_Told, Callable[..., Any], tuple[Any, ...]]] = queue.SimpleQueue()
        for index in range(threads):
            threading.Thread(target=self._serve, name=f"{name}-{index}", daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args)`` soon; what is returned can be told whom to call afterwards, and nothing else."""
        if kwargs:
            raise TypeError("a quick pool passes no keyword arguments")
        told = _Told()
        self._calls.put((told, fn, args))
        return cast("Future[Any]", told)

    def _serve(self) -> None:
        while True:
            told, fn, args = self._calls.get()
            try:
                fn(*args)
            except Exception as error:  # gRPC answers for what a call raises; this thread has to go on
                log.error("quick call failed unforeseen", error=error)
            told.end()
            del told, fn, args  # nothing is held until the next call comes


class _Told:
    """The part of a future that gRPC uses."""

    __slots__ = ("_callbacks", "_ended", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[Any], object]] = []
        self._ended = False

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn` when the work has ended, at once if it has."""
        with self._lock:
            if not self._ended:
                self._callbacks.append(fn)
                return
        fn(self)

    def end(self) -> None:
        """Call whoever wants to be called."""
        with self._lock:
            self._ended = True
        for fn in self._callbacks:
            fn(self)
