"""Tuning: which chunk size and codec suit some disks, found by reading each of them once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from dataplane.analysis import costs
from dataplane.analysis.alignment import Alignment, measure_alignment
from dataplane.analysis.arrays import np
from dataplane.analysis.block_log import BLOCK_SIZE, BlockLog, joined, survey
from dataplane.analysis.content_levels import ContentLevels
from dataplane.analysis.content_tuning import Content, content_profiles, judge_content, try_level
from dataplane.analysis.estimate import Estimate, estimate_sum
from dataplane.analysis.levels import Level, SampledLevels, exact_levels
from dataplane.analysis.profiles import Chunking, Fields
from dataplane.analysis.trace_reads import TraceReads
from dataplane.analysis.trial import Trial, Trials
from dataplane.analysis.verdict import WEIGHTS_DEFAULT, Profile, Verdict, judge
from dataplane.dataclass import dataclass, field
from dataplane.engine.codec import CodecProfile
from dataplane.engine.cutter import Cutter
from dataplane.engine.survey import BLOCK_ZERO
from dataplane.errors import Cancelled, UsageError
from dataplane.image_source import ImageSource
from dataplane.ingest.crew import thread_count
from dataplane.ingest.progress import Progress
from dataplane.limits import CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, MIB, check_chunk_size

CHUNK_SIZES = tuple(1 << bits for bits in range(CHUNK_SIZE_MIN.bit_length() - 1, CHUNK_SIZE_MAX.bit_length()))
CODECS = ("none", "zstd:-5", "zstd:-1", "zstd:1", "zstd:3")
TRIAL_CHUNKS = 512
TRIAL_BYTES = 64 * MIB
"""Chunks compressed for each size: so many, fewer when they are more than so many bytes, but 32 at least."""

SAMPLED_ENTRIES_MAX = 1 << 20
"""Digests that a sampled run keeps in all, at 24 bytes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """What to try and how to judge it. `sample` is 1 for exact, or N to keep one digest in N (a power of two);
    with `cdc` the chunk sizes are averages of content-defined chunks too; `trace` are (offset, length) of requests to
    the first source, in bytes."""

    chunk_sizes: tuple[int, ...] = CHUNK_SIZES
    codecs: tuple[str, ...] = CODECS
    sample: int = 1
    ram: int | None = None
    cdc: bool = False
    weights: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS_DEFAULT))
    trace: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for size in self.chunk_sizes:
            check_chunk_size(size)
        if not self.chunk_sizes or list(self.chunk_sizes) != sorted(set(self.chunk_sizes)):
            raise UsageError("chunk sizes are given in ascending order, each once")
        if not self.codecs:
            raise UsageError("no codec is given")
        if self.sample < 1 or self.sample & (self.sample - 1):
            raise UsageError(f"one digest in {self.sample} cannot be kept: use a power of two, as in 1/64")
        if self.sample > 1 and self.trace:
            raise UsageError("a trace needs to know every chunk: leave --sample out")


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedSource:
    """One source, read. `complete` is False when reading was interrupted."""

    name: str
    format: str
    virtual_size: int
    bytes_read: int
    seconds: float
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeFacts:
    """One chunk size: the level, its compression trial, and what a trace would read."""

    level: Level
    trial: Trial
    trace: dict[str, object] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Everything that was found; ``dataplane.analysis.tune_fields`` names the fields of its JSON."""

    sources: tuple[TunedSource, ...]
    sizes: tuple[SizeFacts, ...]
    profiles: tuple[dict[str, float | int | str], ...]
    verdict: Verdict
    alignments: tuple[Alignment, ...]
    rate: int
    threads: int
    seconds: float
    options: TuneOptions
    logs: tuple[BlockLog, ...]
    """Empty when sampled."""

    content: Content | None
    """Content-defined chunks, when they were asked for."""

    @property
    def complete(self) -> bool:
        """Whether every source was read to its end."""
        return all(source.complete for source in self.sources)


class Tuner:
    """Reads sources one after the other, then finds the answer. Sources stay open until ``finish`` returns.

    Memory: exact, 24 bytes for each 4 KiB block that holds data and some 64 MiB; sampled, at most 128 MiB.
    Content-defined chunks take 12 bytes more for each chunk of each size, which is 24 a block when there are all sizes.
    """

    def __init__(
        self, names: Sequence[str], sources: Sequence[ImageSource], options: TuneOptions, threads: int | None
    ) -> None:
        self._names = names
        self._sources = sources
        self._options = options
        self._threads = thread_count(threads)
        self._logs: list[BlockLog] = []
        self._sampled = (
            SampledLevels(len(sources), options.chunk_sizes, options.sample, SAMPLED_ENTRIES_MAX)
            if options.sample > 1
            else None
        )
        self._content = (
            ContentLevels(len(sources), options.chunk_sizes, options.sample, SAMPLED_ENTRIES_MAX, options.trace)
            if options.cdc
            else None
        )
        self._read: list[TunedSource] = []
        self._started = time.monotonic()

    def read(self, progress: Progress, cancelled: threading.Event | None = None) -> bool:
        """Read the next source; False when `cancelled` was set meanwhile, and what was read until then is kept.

        Raises SourceError or Corrupt.
        """
        number = len(self._read)
        source = self._sources[number]
        started = time.monotonic()
        complete = True
        slices: list[BlockLog] = []
        cutter = Cutter(self._options.chunk_sizes) if self._content is not None else None
        try:
            for part in survey(source, threads=self._threads, progress=progress, cancelled=cancelled, cutter=cutter):
                if self._content is not None and cutter is not None:
                    self._content.add(number, cutter)
                if self._sampled is None:
                    slices.append(part)
                else:
                    self._sampled.add(number, part, source.virtual_size)
        except Cancelled:
            complete = False
        if self._content is not None and cutter is not None:
            cutter.finish()
            self._content.add(number, cutter)
        if self._sampled is None:
            self._logs.append(joined(slices))
        self._read.append(
            TunedSource(
                name=self._names[number],
                format=source.format,
                virtual_size=source.virtual_size,
                bytes_read=progress.read_bytes,
                seconds=time.monotonic() - started,
                complete=complete,
            )
        )
        return complete

    def finish(self, progress: Progress | None = None) -> Tuning:
        """Try codecs on samples, weigh the profiles, and return everything that was found so far.

        Raises UsageError when no source was read, SourceError or Corrupt.
        """
        if not self._read:
            raise UsageError("no source was read")
        progress = progress or Progress()
        sizes = len(self._options.chunk_sizes)
        progress.total_bytes, progress.stage = sizes * (2 if self._options.cdc else 1), "trying codecs"
        facts = []
        for level in self._levels():
            facts.append(self._try_level(level))
            progress.position_bytes += 1
        profiles = tuple(profile for fact in facts for profile in self._profiles(fact))
        content = self._try_content(self._content, profiles, progress) if self._content is not None else None
        progress.stage = "done"
        return Tuning(
            sources=tuple(self._read),
            sizes=tuple(facts),
            profiles=profiles,
            verdict=judge(profiles, self._options.weights, self._options.ram),
            alignments=measure_alignment(self._sources[: len(self._read)], self._logs, [fact.level for fact in facts]),
            rate=self._sampled.rate if self._sampled is not None else 1,
            threads=self._threads,
            seconds=time.monotonic() - self._started,
            options=self._options,
            logs=tuple(self._logs),
            content=content,
        )

    def _levels(self) -> Iterator[Level]:
        if self._sampled is not None:
            return self._sampled.levels(TRIAL_CHUNKS, TRIAL_BYTES)
        sizes = [source.virtual_size for source in self._read]
        return exact_levels(self._logs, sizes, self._options.chunk_sizes, TRIAL_CHUNKS, pick_bytes=TRIAL_BYTES)

    def _try_level(self, level: Level) -> SizeFacts:
        codecs = [CodecProfile.parse(codec) for codec in self._options.codecs]
        trials = Trials(level.chunk_size, codecs, self._threads)
        for number, offsets in enumerate(level.picks):
            if len(offsets):
                trials.add(self._sources[number], offsets, None)
        trace = None
        if self._options.trace:
            reads = TraceReads(self._options.trace)
            reads.add(used_chunks(self._logs[0], level.chunk_size), level.chunk_size)
            trace = reads.fields()
        return SizeFacts(level=level, trial=trials.finish(), trace=trace)

    def _try_content(self, levels: ContentLevels, fixed: Sequence[Profile], progress: Progress) -> Content:
        codecs = [CodecProfile.parse(codec) for codec in self._options.codecs]
        facts = []
        for level in levels.levels(TRIAL_CHUNKS, TRIAL_BYTES):
            facts.append(try_level(level, self._sources, codecs, self._threads))
            progress.position_bytes += 1
        profiles = tuple(
            profile for fact in facts for profile in content_profiles(fact, self._options.codecs, self._threads)
        )
        verdict = judge_content(fixed, profiles, self._options.weights, self._options.ram)
        return Content(facts=tuple(facts), profiles=profiles, verdict=verdict)

    def _profiles(self, fact: SizeFacts) -> Iterator[Fields]:
        level, trial, size = fact.level, fact.trial, fact.level.chunk_size
        distinct = round(level.distinct.value)
        chunking = Chunking(
            chunk_size=size,
            images=len(level.occupancies),
            data_size=sum(one.data_size for one in level.occupancies),
            loaded_size=sum(one.chunks for one in level.occupancies) * size,
            unique_size=distinct * size,
            distinct=distinct,
            pages=sum(one.pages for one in level.occupancies),
            manifest_size=sum(costs.manifest_size(one.chunks, one.pages) for one in level.occupancies),
            index_extra=0,
            read_amplification=partial(costs.random_read_amplification, size),
        )
        for place, codec in enumerate(self._options.codecs):
            stored = stored_size(level.distinct, trial, place, codec, size)
            yield chunking.profile(codec, stored, trial, place, self._threads)


def stored_size(distinct: Estimate, trial: Trial, number: int, codec: str, size: int) -> Estimate:
    """Return the stored bytes of all distinct chunks with one of the codecs that were tried."""
    if codec == "none":
        return Estimate(distinct.value * size, distinct.low * size, distinct.high * size)
    return estimate_sum(trial.lengths[:, number], distinct, 1, size)


def used_chunks(log: BlockLog, chunk_size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the ascending offsets (bytes) of the chunks that are not zero."""
    rows, places = np.nonzero(log.digests > BLOCK_ZERO)
    return np.unique((log.offsets[rows] + places * BLOCK_SIZE) // chunk_size) * chunk_size
