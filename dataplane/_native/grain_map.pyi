"""Directories and grain tables of sparse VMDK extents, checked entry by entry and turned into rows of extents."""

from _typeshed import ReadableBuffer

from dataplane._native.allocation import Allocation
from dataplane._native.batches import BatchBuilder

class GrainMap:
    """Decodes the tables of one sparse extent into rows."""

    def __init__(
        self,
        rows: BatchBuilder,
        *,
        base: int,
        size: int,
        grain_size: int,
        table_entries: int,
        reader: int,
        file_size: int,
        has_zero_grains: bool,
        room_min: int,
    ) -> None: ...
    def tables(self, entries: ReadableBuffer, first: int, allocation: Allocation | None = None) -> memoryview: ...
    def grains(self, numbers: ReadableBuffer, held: ReadableBuffer) -> memoryview: ...
    def add_plain(self, grains: ReadableBuffer) -> int: ...
    def marked(self, grains: ReadableBuffer, markers: ReadableBuffer) -> memoryview: ...
    def bounded(self, grains: ReadableBuffer, marker_size: int) -> memoryview: ...
    def add_packed(self, grains: ReadableBuffer, stored: ReadableBuffer, last_length: int) -> None: ...
