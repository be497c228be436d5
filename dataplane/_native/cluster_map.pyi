"""qcow2's two levels of tables, standard and extended, checked entry by entry and turned into rows of extents."""

from _typeshed import ReadableBuffer

from dataplane._native.allocation import Allocation
from dataplane._native.batches import BatchBuilder

class ClusterMap:
    """Decodes the tables of one state of a disk into rows."""

    data_bytes: int
    compressed: int
    def __init__(
        self,
        rows: BatchBuilder,
        *,
        cluster_bits: int,
        virtual_size: int,
        data_size: int,
        reader: int,
        codec: int,
        allows_zero: bool,
        extended: bool,
        is_external: bool,
        elsewhere: str,
    ) -> None: ...
    def tables(
        self, entries: ReadableBuffer, first: int, file_size: int, allocation: Allocation | None = None
    ) -> memoryview: ...
    def add(self, guests: ReadableBuffer, held: ReadableBuffer) -> None: ...
