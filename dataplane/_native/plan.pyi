"""A plan: one batch of extents, checked row by row, and the windows of the logical disk in which it has data."""

from _typeshed import ReadableBuffer

class Plan:
    """A checked batch of extents, cut into windows of `window_size` bytes that hold data."""

    window_count: int
    window_size: int
    offset: int
    end: int
    data_bytes: int
    decoded_length_max: int
    source_length_max: int
    encoded_bytes: int
    reader_max: int
    def __init__(self, batch: ReadableBuffer, window_size: int, decoded_size_max: int) -> None: ...
    def window(self, index: int) -> tuple[int, int]: ...
    def readers(self) -> list[int]: ...
    def source_ranges(self, index: int) -> list[tuple[int, int, int]]: ...
