"""The cutter: pieces of a disk, in order, become content-defined chunks of several average sizes at once."""

from _typeshed import ReadableBuffer

from dataplane._native.pieces import PieceRows

class Cutter:
    """Cuts one disk into chunks of several average sizes."""

    averages: tuple[int, ...]
    def __init__(self, averages: tuple[int, ...]) -> None: ...
    def add(self, rows: PieceRows) -> None: ...
    def finish(self) -> None: ...
    def take(self, number: int) -> tuple[ReadableBuffer, ReadableBuffer, ReadableBuffer]: ...
