"""Measuring without compression: only digests matter, and ones that no adversary has to fail at will do."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from dataplane.analysis.meter import Meter, sum_sizes
from dataplane.analysis.sweeping import sweep
from dataplane.engine.table import DigestTable
from dataplane.image_source import ImageSource
from dataplane.ingest.accounting import Sizes
from dataplane.ingest.progress import Progress

XXH3_SIZE = 16


class SweepMeter(Meter):
    """Measures without compression."""

    def __init__(self, chunk_size: int) -> None:
        self._chunk_size = chunk_size
        self._shared = DigestTable(XXH3_SIZE)

    def add(self, source: ImageSource, threads: int, progress: Progress, cancelled: threading.Event | None) -> Sizes:
        """Sweep one source."""
        table = DigestTable(XXH3_SIZE)
        sizes = sweep(
            source, table,
            chunk_size=self._chunk_size, key=None, threads=threads, progress=progress, cancelled=cancelled,
        )  # fmt: skip
        if len(self._shared):
            self._shared.update(table)
        else:
            self._shared = table
        return sizes

    def total(self, measured: Sequence[Sizes]) -> Sizes:
        """Count the digests of all sources."""
        distinct = len(self._shared)
        return sum_sizes(measured, self._chunk_size, "none", distinct * self._chunk_size, distinct)
