"""Which ranges of an image's file hold data, as the file system knows: what lies between them reads as zeros."""

from _typeshed import ReadableBuffer

class Allocation:
    """Ranges of a file of `size` bytes that hold data, in order. Holes shorter than `hole_size_min` bytes are data."""

    count: int
    data_bytes: int
    def __init__(self, size: int, hole_size_min: int) -> None: ...
    def add(self, ranges: ReadableBuffer) -> None: ...
    def stored(self, offsets: ReadableBuffer, length: int) -> int: ...
