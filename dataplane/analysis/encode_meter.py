"""Measuring by encoding every distinct chunk, as an import does, into a sink that keeps only digests."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from dataplane.analysis.meter import Meter, sum_sizes
from dataplane.engine.codec import CodecProfile
from dataplane.engine.scan import DIGEST_SIZE, ChunkState
from dataplane.engine.table import DigestTable
from dataplane.image_source import ImageSource
from dataplane.ingest.accounting import Sizes
from dataplane.ingest.pipeline import Pipeline
from dataplane.ingest.progress import Progress


class MeasuringSink:
    """A sink that keeps only digests, so that chunks shared by several sources count once in their total."""

    keeps_manifest = False

    def __init__(self) -> None:
        self._table = DigestTable(DIGEST_SIZE)
        self._lock = threading.Lock()
        self.storage_size = 0
        self.distinct_chunks = 0

    def mark_stored(self, ids: memoryview, states: memoryview) -> tuple[int, int]:
        """Find nothing: every source is measured as if it were alone."""
        return 0, 0

    def append(self, ids: memoryview, stored_lengths: memoryview, plain_length: int, encoded: memoryview) -> None:
        """Count the chunks that no source before had."""
        states = bytearray([ChunkState.DATA]) * len(stored_lengths)
        fresh = self._table.claim(ids, states)
        size = sum(length for length, state in zip(stored_lengths, states, strict=True) if state == ChunkState.NEW)
        with self._lock:
            self.storage_size += size
            self.distinct_chunks += fresh


class EncodeMeter(Meter):
    """Measures by encoding every distinct chunk, as an import does."""

    def __init__(self, chunk_size: int, codec: CodecProfile) -> None:
        self._chunk_size = chunk_size
        self._codec = codec
        self._key = os.urandom(DIGEST_SIZE)
        self._sink = MeasuringSink()

    def add(self, source: ImageSource, threads: int, progress: Progress, cancelled: threading.Event | None) -> Sizes:
        """Run one source through the pipeline."""
        pipeline = Pipeline(
            source,
            self._sink,
            key=self._key,
            domain="",
            chunk_size=self._chunk_size,
            codec=self._codec,
            threads=threads,
            progress=progress,
            cancelled=cancelled,
        )
        return pipeline.run()[1]

    def total(self, measured: Sequence[Sizes]) -> Sizes:
        """Use what the sink counted."""
        sink = self._sink
        return sum_sizes(measured, self._chunk_size, str(self._codec), sink.storage_size, sink.distinct_chunks)
