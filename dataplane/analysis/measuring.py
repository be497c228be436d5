"""Measuring: what an import would store, without a store."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from dataplane.dataclass import dataclass
from dataplane.engine.codec import CodecProfile
from dataplane.hints import TYPE_CHECKING
from dataplane.image_source import ImageSource
from dataplane.ingest.accounting import Sizes
from dataplane.ingest.crew import thread_count
from dataplane.ingest.progress import Progress
from dataplane.limits import CHUNK_SIZE_DEFAULT, check_chunk_size

if TYPE_CHECKING:
    from dataplane.analysis.meter import Meter


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one source would take in a store of its own."""

    format: str
    sizes: Sizes
    seconds: float
    bytes_read: int


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
        self._meter = pick_meter(sources, chunk_size, profile)
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


def pick_meter(sources: Sequence[ImageSource], chunk_size: int, codec: CodecProfile) -> Meter:
    """Return the quickest meter that serves; what the other one needs is not even imported."""
    if codec.level is None and all(can_sweep(source) for source in sources):
        from dataplane.analysis.sweep_meter import SweepMeter

        return SweepMeter(chunk_size)
    from dataplane.analysis.encode_meter import EncodeMeter

    return EncodeMeter(chunk_size, codec)


def can_sweep(source: ImageSource) -> bool:
    """Return whether every reader of `source` has a file descriptor, which is what native loops read from."""
    return all(reader.fileno() is not None for reader in source.readers)
