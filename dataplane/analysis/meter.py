"""A meter: one way of measuring sources, and how their sizes add up."""

from __future__ import annotations

from abc import ABC, abstractmethod

from dataplane.hints import TYPE_CHECKING
from dataplane.ingest.accounting import Sizes

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from dataplane.image_source import ImageSource
    from dataplane.ingest.progress import Progress


class Meter(ABC):
    """A way of measuring sources one after the other."""

    @abstractmethod
    def add(self, source: ImageSource, threads: int, progress: Progress, cancelled: threading.Event | None) -> Sizes:
        """Return the sizes of one source as if it were alone."""

    @abstractmethod
    def total(self, measured: Sequence[Sizes]) -> Sizes:
        """Return the sizes of all sources together."""


def sum_sizes(measured: Sequence[Sizes], chunk_size: int, codec: str, storage_size: int, distinct_chunks: int) -> Sizes:
    """Return the sums of sizes that add up, with the `storage_size` and `distinct_chunks` that do not."""
    return Sizes(
        virtual_size=sum(sizes.virtual_size for sizes in measured),
        data_size=sum(sizes.data_size for sizes in measured),
        storage_size=storage_size,
        allocated_size=sum(sizes.allocated_size for sizes in measured),
        chunk_size=chunk_size,
        codec=codec,
        chunks=sum(sizes.chunks for sizes in measured),
        distinct_chunks=distinct_chunks,
    )
