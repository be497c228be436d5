"""The sizes of an image, defined once: what `storage_size` and its neighbours mean, in bytes."""

from __future__ import annotations

from dataplane.dataclass import dataclass
from dataplane.extent import WINDOW_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of one image; bytes, unless named a count.

    `virtual_size`: what the guest sees. `data_size`: chunks that are not all zero, clipped to the end of the disk.
    `storage_size`: the stored (encoded) lengths of the image's distinct chunks that are not all zero, each counted
    once. It depends on the content and the store's profile (`chunk_size`, `codec`) alone. `allocated_size`: 4 MiB for
    each aligned 4 MiB window that holds a byte that is not zero. `chunks` and `distinct_chunks` count those that are
    not zero.
    """

    virtual_size: int
    data_size: int
    storage_size: int
    allocated_size: int
    chunk_size: int
    codec: str
    chunks: int
    distinct_chunks: int


class RunningTotals:
    """Sizes as they grow during an ingest; the caller serialises its calls."""

    def __init__(self) -> None:
        self.data_size = 0
        self.storage_size = 0
        self.allocated_size = 0
        self.chunks = 0
        self.distinct_chunks = 0

    def add_window(self, *, data_size: int, chunks: int, distinct_chunks: int, storage_size: int) -> None:
        """Add one window of 4 MiB; windows without data need not be added."""
        self.data_size += data_size
        self.storage_size += storage_size
        self.allocated_size += WINDOW_SIZE if chunks else 0
        self.chunks += chunks
        self.distinct_chunks += distinct_chunks

    def sizes(self, *, virtual_size: int, chunk_size: int, codec: str) -> Sizes:
        """Return the totals as a value."""
        return Sizes(
            virtual_size=virtual_size,
            data_size=self.data_size,
            storage_size=self.storage_size,
            allocated_size=self.allocated_size,
            chunk_size=chunk_size,
            codec=codec,
            chunks=self.chunks,
            distinct_chunks=self.distinct_chunks,
        )
