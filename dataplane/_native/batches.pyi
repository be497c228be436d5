"""Batches of extents built row by row: gaps become holes, neighbours merge, ends meet windows; layers too."""

from _typeshed import ReadableBuffer

from dataplane._native.allocation import Allocation

class MapFault(ValueError):
    """A table of an image breaks the rules of its format; the text says which place of the disk, and how."""

class BatchBuilder:
    """Rows of extents in the order of the disk, given out as batches that ``ImageSource.extents`` may yield."""

    given: int
    end: int
    allocation: Allocation | None
    def __init__(self, window_size: int, rows_max: int) -> None: ...
    def add(
        self,
        offset: int,
        length: int,
        kind: int,
        codec: int = 0,
        reader: int = 0,
        source_offset: int = 0,
        source_length: int = 0,
        decoded_offset: int = 0,
        decoded_length: int = 0,
    ) -> None: ...
    def add_rows(self, rows: ReadableBuffer, end: int) -> None: ...
    def take(self, known_end: int, last: bool = False) -> list[memoryview]: ...

def first_hole(rows: ReadableBuffer, start: int, end: int) -> int: ...
def lay_over(upper: ReadableBuffer, lower: ReadableBuffer, start: int, end: int) -> memoryview: ...
def moved(rows: ReadableBuffer, readers: int, end: int) -> memoryview: ...
