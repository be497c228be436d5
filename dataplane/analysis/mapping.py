"""Maps: where on a disk there is data, what of it repeats, and with which other image it is shared."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import IntEnum

from dataplane.analysis.arrays import np
from dataplane.analysis.block_log import BLOCK_SIZE, BlockLog, folded, joined, survey
from dataplane.analysis.ext4_free import free_blocks
from dataplane.analysis.labels import Partition, partitions
from dataplane.analysis.trial import Trials
from dataplane.dataclass import dataclass
from dataplane.engine.codec import CodecProfile
from dataplane.engine.survey import BLOCK_ZERO
from dataplane.errors import UsageError
from dataplane.extent import COLUMN_COUNT, COLUMNS, ExtentKind
from dataplane.hints import TYPE_CHECKING
from dataplane.image_source import ImageSource
from dataplane.ingest.crew import thread_count
from dataplane.ingest.progress import Progress
from dataplane.limits import CHUNK_SIZE_DEFAULT, check_chunk_size

if TYPE_CHECKING:
    import numpy.typing as npt

    from dataplane.analysis.block_log import Digests

    Numbers = npt.NDArray[np.int64]

CELLS_DEFAULT = 256
CELLS_MAX = 1 << 16


class Content(IntEnum):
    """What a chunk of a disk is."""

    HOLE = 0
    ZERO = 1
    UNIQUE = 2
    DUPLICATE = 3
    SHARED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Junk:
    """Blocks of 4 KiB that an ext4 file system does not use: how many bytes they are, and how many of those hold
    something that is not zero and inflates the image."""

    partition: int
    free_size: int
    junk_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskMap:
    """A disk in cells of `cell_size` bytes, whole chunks each (the last one may be cut short by the end of the disk).

    `sizes[i, k]` are the bytes of cell i that are Content k. `partner[i]` is the image that shares most of cell i, an
    index into the others, or -1. `compressed[i]` is what share of its size a sampled chunk of the cell keeps with zstd
    level 1, or NaN where there is no data.
    """

    virtual_size: int
    chunk_size: int
    cell_size: int
    sizes: Numbers
    partner: Numbers
    compressed: npt.NDArray[np.float64]
    table: str
    partitions: tuple[Partition, ...]
    junk: tuple[Junk, ...]


def map_disk(
    source: ImageSource,
    others: Sequence[ImageSource] = (),
    *,
    chunk_size: int = CHUNK_SIZE_DEFAULT,
    cells: int = CELLS_DEFAULT,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> DiskMap:
    """Read a disk, and the `others` that it is compared with, and return its map in at most `cells` cells.

    Memory: 8 bytes for each 4 KiB block with data of the disk, 16 for each chunk of the others. Raises UsageError,
    SourceError, Corrupt or Cancelled.
    """
    check_chunk_size(chunk_size)
    if not 1 <= cells <= CELLS_MAX:
        raise UsageError(f"a map has from 1 to {CELLS_MAX} cells, not {cells}")
    progress, crew = progress or Progress(), thread_count(threads)
    log = joined(list(survey(source, threads=crew, progress=progress, cancelled=cancelled)), keep_zeros=True)
    known = []
    for other in others:
        found = [
            folded(part.digests, chunk_size)
            for part in survey(other, threads=crew, progress=Progress(), cancelled=cancelled)
        ]
        flat = np.concatenate([np.empty(0, dtype=np.uint64), *(level.reshape(-1) for level in found)])
        known.append(np.unique(flat[flat > BLOCK_ZERO]))
    level = folded(log.digests, chunk_size)
    contents, partners = classify(level, known)
    chunk_count = -(-source.virtual_size // chunk_size)
    cell_size = max(1, -(-chunk_count // cells)) * chunk_size
    sizes, partner = fill_cells(source, log, level, contents, partners, chunk_size, cell_size, len(known))
    table, found_partitions = partitions(source)
    return DiskMap(
        virtual_size=source.virtual_size,
        chunk_size=chunk_size,
        cell_size=cell_size,
        sizes=sizes,
        partner=partner,
        compressed=compressibility(source, log, level, chunk_size, cell_size, len(sizes), crew, cancelled),
        table=table,
        partitions=tuple(found_partitions),
        junk=tuple(junk_of(source, log, one) for one in found_partitions if one.filesystem in ("ext4", "ext3", "ext2")),
    )


def classify(level: Digests, known: Sequence[Digests]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int16]]:
    """Return the Content of every chunk of a level, and the first of the other images that has it, or -1."""
    contents = np.full(level.shape, Content.HOLE, dtype=np.int8)
    partners = np.full(level.shape, -1, dtype=np.int16)
    contents[level == BLOCK_ZERO] = Content.ZERO
    data = level > BLOCK_ZERO
    values, inverse, counts = np.unique(level[data], return_inverse=True, return_counts=True)
    kinds = np.where(counts > 1, Content.DUPLICATE, Content.UNIQUE).astype(np.int8)
    owner = np.full(len(values), -1, dtype=np.int16)
    for number, digests in enumerate(known):
        owner[np.isin(values, digests, assume_unique=True) & (owner < 0)] = number
    kinds[owner >= 0] = Content.SHARED
    contents[data], partners[data] = kinds[inverse], owner[inverse]
    return contents, partners


def fill_cells(
    source: ImageSource, log: BlockLog, level: Digests, contents: npt.NDArray[np.int8], partners: npt.NDArray[np.int16],
    chunk_size: int, cell_size: int, images: int,
) -> tuple[Numbers, Numbers]:  # fmt: skip
    """Return the bytes of each Content in each cell, and the image that shares most of each cell."""
    count = max(1, -(-source.virtual_size // cell_size))
    offsets = (log.offsets.reshape(-1, 1) + np.arange(level.shape[1]) * chunk_size).reshape(-1)
    lengths = np.clip(source.virtual_size - offsets, 0, chunk_size)
    cell = np.minimum(offsets // cell_size, count - 1)
    sizes = np.zeros((count, len(Content)), dtype=np.int64)
    flat = contents.reshape(-1)
    for kind in Content:
        chosen = flat == kind
        sizes[:, kind] = np.bincount(cell[chosen], weights=lengths[chosen], minlength=count)
    told = zeros_told(source, cell_size, count)
    total = np.minimum(cell_size, source.virtual_size - np.arange(count) * cell_size)
    rest = total - sizes[:, Content.ZERO :].sum(axis=1)
    sizes[:, Content.ZERO] += np.minimum(told, rest)
    sizes[:, Content.HOLE] = total - sizes[:, Content.ZERO :].sum(axis=1)
    shares = np.zeros((count, images + 1), dtype=np.int64)
    np.add.at(shares, (cell, partners.reshape(-1)), np.where(partners.reshape(-1) >= 0, lengths, 0))
    partner = np.where(shares.max(axis=1) > 0, shares.argmax(axis=1), -1)
    return sizes, partner


def zeros_told(source: ImageSource, cell_size: int, count: int) -> Numbers:
    """Return the bytes of each cell that lie in ZERO extents: allocated, and zero by the word of the format."""
    zeros = np.zeros(count, dtype=np.int64)
    kind, offset, length = (COLUMNS.index(name) for name in ("kind", "offset", "length"))
    for batch in source.extents():
        rows = np.asarray(batch, dtype=np.int64).reshape(-1, COLUMN_COUNT)
        for row in rows[rows[:, kind] == ExtentKind.ZERO]:
            at, end = int(row[offset]), int(row[offset] + row[length])
            cells = np.arange(at // cell_size, (end - 1) // cell_size + 1)
            zeros[cells] += np.minimum(end, (cells + 1) * cell_size) - np.maximum(at, cells * cell_size)
    return zeros


def compressibility(
    source: ImageSource, log: BlockLog, level: Digests, chunk_size: int, cell_size: int, count: int, threads: int,
    cancelled: threading.Event | None,
) -> npt.NDArray[np.float64]:  # fmt: skip
    """Return the compressed share of one chunk of each cell: the first that holds data."""
    rows, places = np.nonzero(level > BLOCK_ZERO)
    offsets = log.offsets[rows] + places * chunk_size
    cells, first = np.unique(offsets // cell_size, return_index=True)
    shares = np.full(count, np.nan)
    if len(first):
        trials = Trials(chunk_size, [CodecProfile(1)], threads)
        trials.add(source, offsets[first], cancelled)
        shares[cells] = trials.finish().lengths[:, 0] / chunk_size
    return shares


def junk_of(source: ImageSource, log: BlockLog, partition: Partition) -> Junk:
    """Return what lies in the free blocks of a file system."""
    free_size = junk_size = 0
    window = log.digests.shape[1] * BLOCK_SIZE
    rows = {int(offset): number for number, offset in enumerate(log.offsets)}
    for offset, free in free_blocks(source, partition):
        free_size += int(np.count_nonzero(free)) * BLOCK_SIZE
        at = 0
        while at < len(free):
            start, inside = divmod(offset + at * BLOCK_SIZE, window)
            count = min(len(free) - at, (window - inside) // BLOCK_SIZE)
            row = rows.get(start * window)
            if row is not None:
                used = log.digests[row, inside // BLOCK_SIZE : inside // BLOCK_SIZE + count] > BLOCK_ZERO
                junk_size += int(np.count_nonzero(used & free[at : at + count])) * BLOCK_SIZE
            at += count
    return Junk(partition=partition.number, free_size=free_size, junk_size=junk_size)
