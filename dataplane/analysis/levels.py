"""Levels: what a set of disks holds at one chunk size, exactly or from sampled digests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dataplane.analysis.arrays import np
from dataplane.analysis.block_log import BlockLog, folded
from dataplane.analysis.counting import ChunkCounts, count_keys, grouped, image_bits, make_keys, run_starts, to_keys
from dataplane.analysis.estimate import Estimate, estimate_count
from dataplane.analysis.sampled_keys import SampledKeys
from dataplane.dataclass import dataclass, field
from dataplane.engine.survey import BLOCK_ZERO
from dataplane.extent import WINDOW_SIZE
from dataplane.hints import TYPE_CHECKING
from dataplane.limits import PAGE_CHUNKS

FIND_DIGESTS = 1 << 16
"""Digests that are searched together: bounds the memory beside them."""

if TYPE_CHECKING:
    import numpy.typing as npt

    from dataplane.analysis.block_log import Digests

    Offsets = npt.NDArray[np.int64]


@dataclass(slots=True)
class Occupancy:
    """How one disk is filled at one chunk size: chunks that are not zero, their bytes on the disk, manifest pages."""

    chunks: int = 0
    data_size: int = 0
    pages: int = 0
    _last_page: int = field(default=-1, repr=False)

    def add(self, log: BlockLog, level: Digests, chunk_size: int, virtual_size: int) -> None:
        """Add a slice of the disk, in disk order; `level` are its digests at `chunk_size`."""
        used = level > BLOCK_ZERO
        count = int(np.count_nonzero(used))
        if not count:
            return
        self.chunks += count
        self.data_size += count * chunk_size
        rows = np.flatnonzero(used.any(axis=1))
        place = int(np.flatnonzero(used[rows[-1]])[-1])
        end = int(log.offsets[rows[-1]]) + (place + 1) * chunk_size
        self.data_size -= max(0, end - virtual_size)
        span = chunk_size * PAGE_CHUNKS
        if span >= WINDOW_SIZE:
            pages = np.unique(log.offsets[rows] // span)
        else:
            raise ValueError(f"pages of {span} bytes are smaller than a window")
        self.pages += len(pages) - int(pages[0] == self._last_page)
        self._last_page = int(pages[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What all disks hold at `chunk_size`. `picks[i]` are ascending offsets on disk i of chunks to try codecs on:
    of all distinct chunks a random sample (digests decide), each where it was met first."""

    chunk_size: int
    occupancies: tuple[Occupancy, ...]
    counts: ChunkCounts
    distinct: Estimate
    picks: tuple[Offsets, ...]


def exact_levels(logs: Sequence[BlockLog], virtual_sizes: Sequence[int], sizes: Sequence[int],
                 pick_count: int | None, pick_share: float = 0.0, pick_bytes: int = 0,
                 seed: int = 0) -> Iterator[Level]:  # fmt: skip
    """Yield a level for each of `sizes`, ascending powers of two, from whole logs.

    About `pick_count` chunks are picked (fewer when that is more than `pick_bytes`, but 32 at least), or the share
    `pick_share` of all distinct ones without; `seed` (64 bits) says which. Memory: 8 bytes a block for keys and 4 for
    folding, beside the logs.
    """
    levels = [log.digests for log in logs]
    for size in sizes:
        levels = [folded(level, size) for level in levels]
        occupancies = []
        for log, level, virtual_size in zip(logs, levels, virtual_sizes, strict=True):
            occupancy = Occupancy()
            occupancy.add(log, level, size, virtual_size)
            occupancies.append(occupancy)
        keys = make_keys(levels, image_bits(len(logs)))
        counts = count_keys(keys, len(logs))
        wanted = picks_wanted(size, counts.total_distinct, pick_count, pick_share, pick_bytes)
        picks = find_first(logs, levels, size, first_digests(keys, image_bits(len(logs)), wanted, seed))
        del keys
        distinct = Estimate.exact(counts.total_distinct)
        yield Level(chunk_size=size, occupancies=tuple(occupancies), counts=counts, distinct=distinct, picks=picks)


def picks_wanted(size: int, distinct: int, count: int | None, share: float, most_bytes: int) -> int:
    """Return how many chunks to pick."""
    if count is None:
        return min(distinct, max(32, round(distinct * share)))
    return min(distinct, max(32, min(count, most_bytes // size)))


def first_digests(keys: Digests, bits: int, wanted: int, seed: int) -> Digests:
    """Return `wanted` distinct digests (without the bits of the image), ascending: those that follow on `seed`.

    Digests are random, so these are a random sample of all.
    """
    found = np.empty(0, dtype=np.uint64)
    start = int(np.searchsorted(keys, np.uint64(seed >> bits << bits)))
    for part in (keys[start:], keys[:start]):
        for groups in grouped(part, bits, 2 * wanted + 1):
            if len(found) >= wanted:
                break
            digests = groups.keys >> np.uint64(bits)
            found = np.concatenate((found, digests[run_starts(digests)][: wanted - len(found)]))
    return np.sort(found)


def find_first(logs: Sequence[BlockLog], levels: Sequence[Digests], size: int, digests: Digests) -> tuple[Offsets, ...]:
    """Return, for each disk, the offsets at which `digests` (ascending) are met first of all disks."""
    bits = np.uint64(image_bits(len(logs)))
    found = np.zeros(len(digests), dtype=bool)
    # Few are anywhere near: from `least` on, `span` values.
    least = max(int(digests[0]) << int(bits), BLOCK_ZERO + 1) if len(digests) else 0
    span = ((int(digests[-1]) + 1) << int(bits)) - 1 - least if len(digests) else 0
    picks = []
    for log, level in zip(logs, levels, strict=True):
        offsets = []
        rows = max(1, FIND_DIGESTS // level.shape[1])
        for start in range(0, len(level) if len(digests) else 0, rows):
            flat = level[start : start + rows].reshape(-1)
            near = np.flatnonzero(flat - np.uint64(least) <= np.uint64(span))  # what is less wraps around
            values, first = unique_first(flat[near] >> bits)
            at = np.searchsorted(digests, values)
            hit = (digests[at] == values) & ~found[at]
            found[at[hit]] = True
            places = near[first[hit]]
            offsets.append(log.offsets[start + places // level.shape[1]] + places % level.shape[1] * size)
        picks.append(np.sort(np.concatenate(offsets)) if offsets else np.empty(0, dtype=np.int64))
    return tuple(picks)


def unique_first(values: Digests) -> tuple[Digests, Offsets]:
    """Return the distinct values, ascending, and where each is first."""
    found: tuple[Digests, Offsets] = np.unique(values, return_index=True)
    return found


class SampledLevels:
    """Levels built up slice by slice in bounded memory: only digests whose low bits are zero are kept.

    Every block is read and counted; what is estimated is how many are distinct. When more than `entries_max` digests
    are kept in all, the rate is doubled: fewer are kept, and the intervals grow.
    """

    def __init__(self, images: int, sizes: Sequence[int], rate: int, entries_max: int) -> None:
        self._bits = image_bits(images)
        self._sizes = sizes
        self._entries_max = entries_max
        self._kept = {size: SampledKeys(self._bits, rate) for size in sizes}
        self._occupancies = {size: tuple(Occupancy() for _ in range(images)) for size in sizes}
        self.rate = rate

    def add(self, image: int, log: BlockLog, virtual_size: int) -> None:
        """Add a slice of one disk, in disk order."""
        level = log.digests
        for size in self._sizes:
            level = folded(level, size)
            self._occupancies[size][image].add(log, level, size, virtual_size)
            places = np.flatnonzero(level.reshape(-1) > BLOCK_ZERO)
            offsets = log.offsets[places // level.shape[1]] + places % level.shape[1] * size
            self._kept[size].add(to_keys(level.reshape(-1)[places], image, self._bits), offsets)
        while sum(map(len, self._kept.values())) > self._entries_max:
            for kept in self._kept.values():
                kept.settle()
            if sum(map(len, self._kept.values())) <= self._entries_max:
                break
            self.rate *= 2
            for kept in self._kept.values():
                kept.thin(self.rate)

    def levels(self, pick_count: int, pick_bytes: int) -> Iterator[Level]:
        """Yield the levels."""
        for size, kept in self._kept.items():
            images = len(self._occupancies[size])
            counts = ChunkCounts.none(images)
            if len(kept):
                counts.add(kept.occurrences(), self._bits)
            wanted = picks_wanted(size, counts.total_distinct, pick_count, 0.0, pick_bytes)
            picks = self._picks(kept, images, wanted)
            distinct = estimate_count(counts.total_distinct, self.rate)
            counts.scale(self.rate, [occupancy.chunks for occupancy in self._occupancies[size]])
            yield Level(
                chunk_size=size, occupancies=self._occupancies[size], counts=counts, distinct=distinct, picks=picks
            )

    def _picks(self, kept: SampledKeys, images: int, wanted: int) -> tuple[Offsets, ...]:
        _, first = unique_first(kept.keys >> np.uint64(self._bits))
        first = first[:wanted]
        image = (kept.keys[first] & np.uint64((1 << self._bits) - 1)).astype(np.int64)
        return tuple(np.sort(kept.offsets[first[image == number]]) for number in range(images))
