"""Measuring: what an import would store, without a store."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dataplane.analysis.sweeping import can_sweep, sweep
from dataplane.engine.codec import CodecProfile
from dataplane.engine.scan import DIGEST_SIZE, ChunkState
from dataplane.engine.table import DigestTable
from dataplane.image_source import ImageSource
from dataplane.ingest.accounting import Sizes
from dataplane.ingest.crew import thread_count
from dataplane.ingest.pipeline import Pipeline
from dataplane.ingest.progress import Progress
from dataplane.limits import CHUNK_SIZE_DEFAULT, check_chunk_size

XXH3_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one source would take in a store of its own."""

    format: str
    sizes: Sizes
    seconds: float
    bytes_read: int


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What each source would take alone, and all of them together in one store: chunks that they share count once."""

    sources: tuple[Measured, ...]
    total: Sizes


class Measurer:
    """Measures sources one after the other; what they share is noticed. `sources` are all that will be added.

    `chunk_size` in bytes, `codec` as in a store's profile. Without compression only digests matter, and a
    non-cryptographic one will do: sources that have file descriptors are then swept at close to the speed of reading.
    Raises UsageError for a profile that no store could have.
    """

    def __init__(
        self, sources: Sequence[ImageSource], *, chunk_size: int = CHUNK_SIZE_DEFAULT, codec: str = "zstd:1"
    ) -> None:
        check_chunk_size(chunk_size)
        profile = CodecProfile.parse(codec)
        sweeping = profile.level is None and all(can_sweep(source) for source in sources)
        self._meter: Meter = SweepMeter(chunk_size) if sweeping else EncodeMeter(chunk_size, profile)
        self._measured: list[Measured] = []

    def add(
        self,
        source: ImageSource,
        *,
        threads: int | None = None,
        progress: Progress | None = None,
        cancelled: threading.Event | None = None,
    ) -> Measured:
        """Measure one source; raises SourceError or Cancelled."""
        progress = progress if progress is not None else Progress()
        started = time.monotonic()
        sizes = self._meter.add(source, thread_count(threads), progress, cancelled)
        progress.stage = "done"
        seconds = time.monotonic() - started
        measured = Measured(format=source.format, sizes=sizes, seconds=seconds, bytes_read=progress.read_bytes)
        self._measured.append(measured)
        return measured

    def finish(self) -> Measurement:
        """Return what was found."""
        total = self._meter.total([measured.sizes for measured in self._measured])
        return Measurement(sources=tuple(self._measured), total=total)


def measure(
    sources: Sequence[ImageSource],
    *,
    chunk_size: int = CHUNK_SIZE_DEFAULT,
    codec: str = "zstd:1",
    threads: int | None = None,
) -> Measurement:
    """Return the sizes that imports into a new store with this profile would give; nothing is written.

    Raises UsageError for a profile that no store could have, and SourceError.
    """
    measurer = Measurer(sources, chunk_size=chunk_size, codec=codec)
    for source in sources:
        measurer.add(source, threads=threads)
    return measurer.finish()


class Meter(Protocol):
    """A way of measuring sources one after the other."""

    def add(self, source: ImageSource, threads: int, progress: Progress, cancelled: threading.Event | None) -> Sizes:
        """Return the sizes of one source as if it were alone."""

    def total(self, measured: Sequence[Sizes]) -> Sizes:
        """Return the sizes of all sources together."""


class SweepMeter:
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


class EncodeMeter:
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
