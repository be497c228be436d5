"""Reading one range of a reader into several buffers, without a copy where the reader can do that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dataplane.byte_reader import ByteReader


class Targets:
    """Buffers that are filled one behind the other. They belong to the caller."""

    def __init__(self, views: Sequence[memoryview], on_full: Callable[[], None] | None = None) -> None:
        """Take writable views of bytes; `on_full` is called when one of them is full, in order."""
        self._views = [view for view in views if len(view)]
        self._on_full = on_full
        self._at = 0  # bytes filled of the first view
        self.length = sum(map(len, self._views))
        self.filled = 0

    def next(self, limit: int) -> memoryview:
        """Return what is to be filled next, at most ``limit`` bytes; empty when all is full."""
        return self._views[0][self._at : self._at + limit] if self._views else memoryview(b"")

    def advance(self, count: int) -> None:
        """Note that ``count`` bytes of what ``next`` returned are filled."""
        self.filled += count
        self._at += count
        if self._views and self._at == len(self._views[0]):
            del self._views[0]
            self._at = 0
            if self._on_full is not None:
                self._on_full()

    def copy(self, data: bytes | memoryview) -> None:
        """Fill with ``data``, which must fit."""
        at = 0
        while at < len(data):
            view = self.next(len(data) - at)
            view[:] = data[at : at + len(view)]
            self.advance(len(view))
            at += len(view)


def read_into(
    reader: ByteReader,
    offset: int,
    views: Sequence[memoryview],
    given_up: Callable[[], bool],
    on_full: Callable[[], None] | None = None,
) -> None:
    """Fill ``views``, none of them empty, one behind the other with the bytes of ``reader`` from ``offset``.

    ``given_up`` is asked now and then whether anybody still wants them, ``on_full`` called for each view that is full.
    Raises what the reader's ``read_at`` raises.
    """
    targets = Targets(views, on_full)
    fill: Callable[[int, Targets, Callable[[], bool]], None] | None = getattr(reader, "read_into", None)
    if fill is not None:
        fill(offset, targets, given_up)
    else:
        targets.copy(reader.read_at(offset, targets.length))
