"""Counting: how many distinct chunks several disks have, what repeats inside each, and what they share."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from dataplane.analysis.arrays import np
from dataplane.dataclass import dataclass
from dataplane.engine.fold import gather, tally
from dataplane.engine.survey import BLOCK_ZERO
from dataplane.errors import UsageError
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy.typing as npt

    from dataplane.analysis.block_log import Digests

    Counts = npt.NDArray[np.int64]

SLICE_KEYS = 1 << 18
"""Keys that are looked at together: bounds the memory beside the keys themselves."""

SORT_ALONE_MAX = 1 << 14
"""Fewer keys are sorted in less time than a thread takes to start."""

IMAGES_MAX = 1024
"""Sources in one run: their number takes ten of the 64 bits of a key at most."""

REFERENCE_BUCKETS = 24
"""Chunks that occur 1, 2, 3–4, 5–8, … times; the last bucket has all that occur more often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrences:
    """Groups of equal chunks: `keys` (digest in the high bits, image in the low ones) ascending and distinct, with how
    often each occurs."""

    keys: Digests
    counts: Counts


@dataclass(slots=True, kw_only=True)
class ChunkCounts:
    """What several disks hold at one chunk size, in chunks that are not zero.

    For each image: `chunks`, `distinct` in itself, `only_here` distinct ones that no other image has. `total_distinct`
    of all together. `shared[i, j]` are distinct chunks that both have (the diagonal is `distinct`). `references[k]`
    counts distinct chunks by how often they occur in all images, in buckets of powers of two.
    """

    chunks: Counts
    distinct: Counts
    only_here: Counts
    total_distinct: int
    shared: Counts
    references: Counts

    @classmethod
    def none(cls, images: int) -> ChunkCounts:
        """Return counts of nothing."""
        return cls(
            chunks=np.zeros(images, dtype=np.int64),
            distinct=np.zeros(images, dtype=np.int64),
            only_here=np.zeros(images, dtype=np.int64),
            total_distinct=0,
            shared=np.zeros((images, images), dtype=np.int64),
            references=np.zeros(REFERENCE_BUCKETS, dtype=np.int64),
        )

    def add(self, groups: Occurrences, bits: int) -> None:
        """Add groups, with all images of a digest together."""
        images = (groups.keys & np.uint64((1 << bits) - 1)).astype(np.int64)
        digests = groups.keys >> np.uint64(bits)
        starts = run_starts(digests)
        members = np.diff(np.append(starts, len(digests)))
        size = len(self.chunks)
        self.chunks += np.bincount(images, weights=groups.counts, minlength=size).astype(np.int64)
        self.distinct += np.bincount(images, minlength=size)
        alone = starts[members == 1]
        self.only_here += np.bincount(images[alone], minlength=size)
        self.total_distinct += len(starts)
        self._add_references(np.add.reduceat(groups.counts, starts))
        group_of = np.repeat(np.arange(len(starts)), members)
        for image in range(size):
            here = np.zeros(len(starts), dtype=bool)
            here[group_of[images == image]] = True
            self.shared[image] += np.bincount(images[here[group_of]], minlength=size)

    def _add_references(self, totals: Counts) -> None:
        """Note how often some distinct chunks occur; nearly all of them once."""
        repeated = totals[totals > 1]
        self.references[0] += len(totals) - len(repeated)
        buckets = np.minimum(np.ceil(np.log2(repeated)).astype(np.int64), REFERENCE_BUCKETS - 1)
        self.references += np.bincount(buckets, minlength=REFERENCE_BUCKETS)

    def scale(self, rate: int, chunks: Sequence[int]) -> None:
        """Make counts of sampled digests estimates for all: `chunks` are known exactly, the rest is `rate` times."""
        self.chunks = np.array(chunks, dtype=np.int64)
        self.distinct = np.minimum(self.distinct * rate, self.chunks)
        self.only_here = np.minimum(self.only_here * rate, self.chunks)
        self.total_distinct = min(self.total_distinct * rate, int(self.chunks.sum()))
        self.shared *= rate
        self.references *= rate


def image_bits(images: int) -> int:
    """Return how many low bits of a key say which image it is from; raises UsageError for too many images."""
    if images > IMAGES_MAX:
        raise UsageError(f"{images} sources are more than the {IMAGES_MAX} that one run takes")
    return max(images - 1, 0).bit_length()


def make_keys(levels: Sequence[Digests], bits: int) -> Digests:
    """Return the keys of all chunks that hold data, sorted; `levels` has the digests of each image's chunks.

    The digest gives up its lowest `bits` bits. Memory: 8 bytes a chunk. Two threads sort: keys are as random as
    digests, so half of them have a high bit of 0.
    """
    count = sum(int(np.count_nonzero(level > BLOCK_ZERO)) for level in levels)
    keys = np.empty(count, dtype=np.uint64)
    low, high = 0, count  # low keys are below, high ones from there on
    for image, level in enumerate(levels):
        low, high = gather(level.reshape(-1).data, bits, image, keys.data, low, high)
    sort_both(keys[:low], keys[low:])
    return keys


def sort_both(one: Digests, other: Digests) -> None:
    """Sort two arrays, in two threads when they are long enough."""
    if len(one) + len(other) < SORT_ALONE_MAX:
        one.sort()
        other.sort()
        return
    thread = threading.Thread(target=one.sort)
    thread.start()
    other.sort()
    thread.join()


def to_keys(digests: Digests, image: int, bits: int) -> Digests:
    """Return the keys of digests of one image."""
    return (digests >> np.uint64(bits)) << np.uint64(bits) | np.uint64(image)


def grouped(keys: Digests, bits: int, slice_keys: int = SLICE_KEYS) -> Iterator[Occurrences]:
    """Yield the groups of sorted keys, about `slice_keys` at a time; a digest's images are never torn apart."""
    at = 0
    while at < len(keys):
        end = min(len(keys), at + slice_keys)
        if end < len(keys):
            digest = (int(keys[end - 1]) >> bits) + 1 << bits  # the first key behind this digest, if there is one
            end = len(keys) if digest >= 1 << 64 else int(np.searchsorted(keys, np.uint64(digest)))
        part = keys[at:end]
        starts = run_starts(part)
        yield Occurrences(keys=part[starts], counts=np.diff(np.append(starts, len(part))))
        at = end


def count_keys(keys: Digests, images: int) -> ChunkCounts:
    """Return the counts of sorted keys."""
    bits = image_bits(images)
    counts = ChunkCounts.none(images)
    if images == 1:
        counts.total_distinct = tally(keys.data, counts.references.data)
        counts.chunks += len(keys)
        for each in (counts.distinct, counts.only_here, counts.shared):
            each += counts.total_distinct
        return counts
    for groups in grouped(keys, bits):
        counts.add(groups, bits)
    return counts


def run_starts(values: Digests) -> npt.NDArray[np.int64]:
    """Return where each run of equal neighbours begins."""
    if not len(values):
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
