"""Alignment: whether chunks that begin at the first partition would deduplicate better than those that begin at 0."""

from __future__ import annotations

from collections.abc import Sequence

from dataplane.analysis.block_log import BLOCK_SIZE, BLOCKS, BlockLog, folded, shifted
from dataplane.analysis.counting import count_keys, make_keys
from dataplane.analysis.labels import partitions
from dataplane.analysis.levels import Level
from dataplane.dataclass import dataclass
from dataplane.image_source import ImageSource

WARNING_SHARE = 0.05
"""A difference of more than this is worth a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The first partition of a source begins at `offset` bytes.

    `gains` has, for each chunk size to which that is no multiple, the share of distinct bytes that this disk alone
    would save if chunks began there (negative: it would cost). `off_block` partitions do not begin on a 4 KiB boundary,
    so that nothing can be said without reading the disk again; `measured` is False then, and when a run is sampled.
    """

    source: int
    offset: int
    off_block: bool
    measured: bool
    gains: dict[int, float]

    @property
    def warns(self) -> bool:
        """Whether the effect is large, or must be feared."""
        return self.off_block or any(abs(gain) > WARNING_SHARE for gain in self.gains.values())


def measure_alignment(
    sources: Sequence[ImageSource], logs: Sequence[BlockLog], levels: Sequence[Level]
) -> tuple[Alignment, ...]:
    """Return what the alignment of each partitioned source does; `logs` are empty when the run was sampled."""
    found = []
    for number, source in enumerate(sources):
        first = next((one for one in partitions(source)[1] if one.number > 0), None)
        if first is None:
            continue
        off_block = first.offset % BLOCK_SIZE != 0
        measured = bool(logs) and not off_block
        gains = gains_of(logs[number], number, first.offset // BLOCK_SIZE, levels) if measured else {}
        found.append(Alignment(source=number, offset=first.offset, off_block=off_block, measured=measured, gains=gains))
    return tuple(found)


def gains_of(log: BlockLog, number: int, start: int, levels: Sequence[Level]) -> dict[int, float]:
    """Return the gain for each chunk size that `start` (blocks) is no multiple of."""
    sizes = [level.chunk_size for level in levels if start * BLOCK_SIZE % level.chunk_size]
    if not sizes:
        return {}
    digests = shifted(log, start % BLOCKS).digests
    gains = {}
    for level in levels:
        if level.chunk_size not in sizes:
            continue
        digests = folded(digests, level.chunk_size)
        aligned = int(level.counts.distinct[number])
        moved = count_keys(make_keys([digests], 0), 1).total_distinct
        gains[level.chunk_size] = 1 - moved / aligned if aligned else 0.0
    return gains
