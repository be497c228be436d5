"""The survey: threads read the windows of a plan and write down a short digest of every 4 KiB block, for analysis."""

from _typeshed import ReadableBuffer, WriteableBuffer

from dataplane._native.pieces import PieceRows
from dataplane._native.plan import Plan
from dataplane._native.walk import Walk
from dataplane._native.window import Window

class Survey(Walk):
    """A range of windows of one plan, shared by the threads that read them; each brings its own Window."""

    def __init__(
        self, plan: Plan, fds: list[int], log: ReadableBuffer, first: int, pieces: PieceRows | None = None
    ) -> None: ...

def note_window(window: Window, row: WriteableBuffer) -> None: ...
