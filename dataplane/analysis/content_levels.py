"""Content levels: what a set of disks holds in content-defined chunks of one average size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from dataplane.analysis.arrays import np
from dataplane.analysis.counting import image_bits, run_starts, to_keys
from dataplane.analysis.estimate import Z95, Estimate, estimate_count
from dataplane.analysis.trace_reads import TraceReads
from dataplane.dataclass import dataclass, field
from dataplane.engine.cutter import Cutter
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy.typing as npt

    from dataplane.analysis.block_log import Digests

    Numbers = npt.NDArray[np.int64]


PICKS_MAX = 512
"""Chunks of each size that may be tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentLevel:
    """What all disks hold in chunks of `average` bytes on average. Sizes are bytes, the last block of a disk filled up.

    For each image: `chunks`, `data_sizes` (in chunks), `distinct_sizes` (repeats inside it left out). `squares` is the
    sum of all lengths squared. `distinct` chunks of all together have `unique_size`. `picks[i]` are ascending (offset,
    length) on disk i of chunks to try codecs on: of all distinct ones a random sample, each where it was met first.
    `trace` is what a trace would read of the first disk, if there is one.
    """

    average: int
    chunks: tuple[int, ...]
    data_sizes: tuple[int, ...]
    distinct_sizes: tuple[int, ...]
    squares: float
    distinct: Estimate
    unique_size: Estimate
    picks: tuple[Numbers, ...]
    trace: dict[str, object] | None


@dataclass(slots=True)
class Tally:
    """Chunks of one average size that were met; counts and sizes (bytes) are by image."""

    chunks: list[int]
    data_sizes: list[int]
    trace: TraceReads | None
    squares: float = 0.0
    keys: list[Digests] = field(default_factory=list)
    lengths: list[npt.NDArray[np.uint32]] = field(default_factory=list)
    kept: int = 0
    picked: Digests = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    places: Numbers = field(default_factory=lambda: np.empty((0, 3), dtype=np.int64))
    """Of the chunks with the `picked` digests: image, offset, length."""

    def pick(self, digests: Digests, image: int, offsets: Numbers, lengths: npt.NDArray[np.uint32]) -> None:
        """Keep the PICKS_MAX smallest digests there are: digests are random, so these are a random sample."""
        if len(self.picked) == PICKS_MAX:
            near = digests < self.picked[-1]
            digests, offsets, lengths = digests[near], offsets[near], lengths[near]
        if not len(digests):
            return
        here = np.stack([np.full(len(digests), image, dtype=np.int64), offsets, lengths.astype(np.int64)], axis=1)
        both, first = np.unique(np.concatenate([self.picked, digests]), return_index=True)
        self.picked = both[:PICKS_MAX]
        self.places = np.concatenate([self.places, here])[first[:PICKS_MAX]]


class ContentLevels:
    """Chunks of several average sizes, counted as they are cut.

    Exact, memory is 12 bytes for each chunk, and twice that for one size at a time in the end. With a `rate` above 1
    only digests whose low bits are zero are kept, `entries_max` of them at most: when there are more the rate doubles.
    """

    def __init__(
        self,
        images: int,
        averages: Sequence[int],
        rate: int,
        entries_max: int,
        trace: Sequence[tuple[int, int]] = (),
    ) -> None:
        """`trace` are (offset, length) of requests to the first disk, in bytes."""
        self.averages = tuple(averages)
        self.rate = rate
        self._bits = image_bits(images)
        self._entries_max = entries_max
        self._tallies = [Tally([0] * images, [0] * images, TraceReads(trace) if trace else None) for _ in self.averages]

    def add(self, image: int, cutter: Cutter) -> None:
        """Take the chunks of one disk that `cutter` has ready."""
        for number, tally in enumerate(self._tallies):
            taken = cutter.take(number)
            digests = np.asarray(taken[0], dtype=np.uint64)
            lengths, offsets = np.asarray(taken[1], dtype=np.uint32), np.asarray(taken[2], dtype=np.int64)
            if not len(digests):
                continue
            tally.chunks[image] += len(digests)
            tally.data_sizes[image] += int(lengths.sum(dtype=np.int64))
            tally.squares += float((lengths.astype(np.float64) ** 2).sum())
            if tally.trace is not None and image == 0:
                tally.trace.add(offsets, lengths.astype(np.int64))
            keys = to_keys(digests, image, self._bits)
            tally.pick(keys >> np.uint64(self._bits), image, offsets, lengths)
            if self.rate > 1:
                kept = self._is_kept(keys)
                keys, lengths = keys[kept], lengths[kept]
            tally.keys.append(keys)
            tally.lengths.append(lengths)
            tally.kept += len(keys)
        while self.rate > 1 and sum(tally.kept for tally in self._tallies) > self._entries_max:
            self._thin()

    def levels(self, pick_count: int, pick_bytes: int) -> Iterator[ContentLevel]:
        """Yield the levels, each once; `pick_count` chunks are picked, fewer when they are more than `pick_bytes`."""
        for average, tally in zip(self.averages, self._tallies, strict=True):
            keys, lengths = self._groups(tally)
            starts = run_starts(keys >> np.uint64(self._bits))
            unique = lengths[starts].astype(np.float64)
            images = (keys & np.uint64((1 << self._bits) - 1)).astype(np.int64)
            distinct_sizes = np.bincount(images, weights=lengths, minlength=len(tally.chunks)) * self.rate
            data_sizes = np.array(tally.data_sizes)
            wanted = max(32, min(pick_count, pick_bytes // average))
            places = tally.places[:wanted]
            yield ContentLevel(
                average=average,
                chunks=tuple(tally.chunks),
                data_sizes=tuple(tally.data_sizes),
                distinct_sizes=tuple(np.minimum(distinct_sizes.astype(np.int64), data_sizes).tolist()),
                squares=tally.squares,
                distinct=estimate_count(len(starts), self.rate),
                unique_size=self._estimate_size(unique, int(data_sizes.sum())),
                picks=tuple(ordered(places[places[:, 0] == image, 1:]) for image in range(len(tally.chunks))),
                trace=tally.trace.fields() if tally.trace is not None else None,
            )

    def _groups(self, tally: Tally) -> tuple[Digests, npt.NDArray[np.uint32]]:
        """Return the distinct keys, ascending, with the lengths of their chunks; the tally is used up."""
        keys = np.concatenate([np.empty(0, dtype=np.uint64), *tally.keys])
        lengths = np.concatenate([np.empty(0, dtype=np.uint32), *tally.lengths])
        tally.keys.clear()
        tally.lengths.clear()
        order = np.argsort(keys)
        keys = keys[order]
        starts = run_starts(keys)
        return keys[starts], lengths[order[starts]]

    def _estimate_size(self, lengths: npt.NDArray[np.float64], most: int) -> Estimate:
        """Return the bytes of all distinct chunks from those of the kept ones."""
        size = float(lengths.sum())
        if self.rate == 1:
            return Estimate.exact(size)
        half = Z95 * self.rate * math.sqrt(float((lengths**2).sum()) * (1 - 1 / self.rate))
        value = min(size * self.rate, float(most))
        return Estimate(value, max(size, value - half), min(float(most), value + half))

    def _is_kept(self, keys: Digests) -> npt.NDArray[np.bool_]:
        kept: npt.NDArray[np.bool_] = (keys >> np.uint64(self._bits)) & np.uint64(self.rate - 1) == 0
        return kept

    def _thin(self) -> None:
        """Keep each key once, and half of them when they are still too many."""
        for tally in self._tallies:
            keys, lengths = self._groups(tally)
            tally.keys, tally.lengths, tally.kept = [keys], [lengths], len(keys)
        if sum(tally.kept for tally in self._tallies) <= self._entries_max:
            return
        self.rate *= 2
        for tally in self._tallies:
            kept = self._is_kept(tally.keys[0])
            tally.keys, tally.lengths = [tally.keys[0][kept]], [tally.lengths[0][kept]]
            tally.kept = len(tally.keys[0])


def ordered(places: Numbers) -> Numbers:
    """Return rows (offset, length) by ascending offset."""
    return places[np.argsort(places[:, 0], kind="stable")]
