"""Merging runs, or count files: their entries as one sorted stream, in pieces."""

from _typeshed import ReadableBuffer

from dataplane._native.runs import Run

class RunMerge:
    """Merges runs. Not safe for concurrent use."""

    def __init__(
        self, runs: list[Run], numbers: list[ReadableBuffer] | None = None, spare_from: int = 0xFFFFFFFF
    ) -> None: ...
    def count(self) -> int: ...
    def take(self, count_max: int) -> bytes: ...
