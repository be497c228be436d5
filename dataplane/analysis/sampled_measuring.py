"""Measuring with a sample: what imports would store, as an interval, for a small part of the work.

What a file holds is known exactly, because reading and comparing is quick; only a share of the distinct chunks is
compressed. Over a network reading is what costs, so only a share of the disk is fetched, and how often chunks repeat is
estimated too (``dataplane.analysis.remote_sample``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from dataplane.analysis.block_log import BlockLog, joined, survey
from dataplane.analysis.estimate import Estimate, estimate_sum
from dataplane.analysis.levels import exact_levels
from dataplane.analysis.remote_sample import measure_remotely
from dataplane.analysis.trial import Trials
from dataplane.dataclass import dataclass
from dataplane.engine.codec import CodecProfile
from dataplane.errors import UsageError
from dataplane.image_source import ImageSource
from dataplane.ingest.crew import thread_count
from dataplane.ingest.progress import Progress
from dataplane.limits import CHUNK_SIZE_DEFAULT, check_chunk_size


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledSizes:
    """Sizes of one source, or of several together, named as in ``Sizes``; estimates carry their 95 % intervals."""

    virtual_size: int
    data_size: Estimate
    storage_size: Estimate
    chunks: Estimate
    distinct_chunks: Estimate
    seconds: float
    bytes_read: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledMeasurement:
    """What each source would take alone, and all together; `total` is None when one was fetched over a network, because
    what it shares with others is not known then."""

    sources: tuple[SampledSizes, ...]
    total: SampledSizes | None
    sampled_chunks: int


def measure_sampled(
    sources: Sequence[ImageSource],
    *,
    share: float,
    chunk_size: int = CHUNK_SIZE_DEFAULT,
    codec: str = "zstd:1",
    threads: int | None = None,
    seed: int = 0,
    progress_of: Callable[[int], AbstractContextManager[Progress]] | None = None,
    cancelled: threading.Event | None = None,
) -> SampledMeasurement:
    """Estimate what imports of `sources` into a new store would take; `share` is above 0 and at most 1.

    `seed` (64 bits) chooses the sample. Raises UsageError, SourceError, Corrupt or Cancelled.
    """
    check_chunk_size(chunk_size)
    profile = CodecProfile.parse(codec)
    if not 0 < share <= 1 or not 0 <= seed < 1 << 64:
        raise UsageError(f"a sample is a share above 0 and at most 1, not {share}, with a seed of 64 bits")
    crew = thread_count(threads)
    progress_of = progress_of or (lambda number: nullcontext(Progress()))
    local = [number for number, source in enumerate(sources) if is_local(source)]
    found: dict[int, SampledSizes] = {}
    logs: list[BlockLog] = []
    spent = []
    for number, source in enumerate(sources):
        started = time.monotonic()
        with progress_of(number) as progress:
            if number not in local:
                remote = measure_remotely(source, share, chunk_size, profile, crew, seed, progress, cancelled)
                found[number] = SampledSizes(
                    virtual_size=source.virtual_size, data_size=remote.data_size, storage_size=remote.storage_size,
                    chunks=remote.chunks, distinct_chunks=remote.distinct_chunks,
                    seconds=time.monotonic() - started, bytes_read=progress.read_bytes,
                )  # fmt: skip
                continue
            logs.append(joined(list(survey(source, threads=crew, progress=progress, cancelled=cancelled))))
            spent.append((time.monotonic() - started, progress.read_bytes))
    total = None
    sampled = 0
    for place, number in enumerate(local):
        found[number], count = sample_logs(
            [sources[number]], [logs[place]], [spent[place]], share, chunk_size, profile, crew, seed, cancelled
        )
        sampled += count
    if len(sources) == len(local) == 1:
        total = found[0]
    elif len(local) == len(sources):
        total, count = sample_logs(sources, logs, spent, share, chunk_size, profile, crew, seed, cancelled)
        sampled += count
    return SampledMeasurement(
        sources=tuple(found[number] for number in range(len(sources))), total=total, sampled_chunks=sampled
    )


def is_local(source: ImageSource) -> bool:
    """Return whether reading all of a source is quick."""
    return source.own_data or all(reader.fileno() is not None for reader in source.readers)


def sample_logs(
    sources: Sequence[ImageSource], logs: Sequence[BlockLog], spent: Sequence[tuple[float, int]], share: float,
    chunk_size: int, codec: CodecProfile, threads: int, seed: int, cancelled: threading.Event | None,
) -> tuple[SampledSizes, int]:  # fmt: skip
    """Return the sizes of sources that were read, together in one store, and how many chunks were compressed for it.

    `spent` are the (seconds, bytes read) of each.
    """
    started = time.monotonic()
    virtual = [source.virtual_size for source in sources]
    level = next(exact_levels(logs, virtual, [chunk_size], None, pick_share=share, seed=seed))
    trials = Trials(chunk_size, [codec], threads)
    for source, offsets in zip(sources, level.picks, strict=True):
        if len(offsets):
            trials.add(source, offsets, cancelled)
    lengths = trials.finish().lengths[:, 0]
    stored = estimate_sum(lengths, level.distinct, 1, chunk_size)
    if codec.level is None:
        stored = Estimate.exact(level.distinct.value * chunk_size)
    sizes = SampledSizes(
        virtual_size=sum(virtual),
        data_size=Estimate.exact(sum(one.data_size for one in level.occupancies)),
        storage_size=stored,
        chunks=Estimate.exact(sum(one.chunks for one in level.occupancies)),
        distinct_chunks=level.distinct,
        seconds=sum(seconds for seconds, _ in spent) + time.monotonic() - started,
        bytes_read=sum(read for _, read in spent),
    )
    return sizes, len(lengths)
