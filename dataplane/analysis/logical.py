"""Reading chosen ranges of a disk, whatever its format."""

from __future__ import annotations

from collections.abc import Iterable

from dataplane.analysis.arrays import np
from dataplane.analysis.picking import PickedSource
from dataplane.engine.scan import ChunkState
from dataplane.engine.window import Window
from dataplane.extent import WINDOW_SIZE
from dataplane.image_source import ImageSource
from dataplane.ingest.feed import Feed
from dataplane.ingest.progress import Progress
from dataplane.limits import CHUNK_SIZE_MIN


def read_ranges(source: ImageSource, ranges: Iterable[tuple[int, int]]) -> list[bytes]:
    """Return the bytes of each range (offset, length), cut at the end of the disk; all are in memory at once.

    Raises SourceError or Corrupt.
    """
    wanted = [(offset, min(offset + length, source.virtual_size)) for offset, length in ranges]
    parts = [bytearray(max(0, end - offset)) for offset, end in wanted]
    bounds = united([(offset, end) for offset, end in wanted if offset < end])
    feed: Feed[None] = Feed(PickedSource(source, np.array(bounds)), lambda offset, length: None, Progress(), None)
    window = Window(WINDOW_SIZE, CHUNK_SIZE_MIN)
    while (claim := feed.claim()) is not None:
        feed.load(claim, window)
        absent = np.flatnonzero(np.frombuffer(window.states, dtype=np.uint8) != ChunkState.DATA) * CHUNK_SIZE_MIN
        for (offset, end), part in zip(wanted, parts, strict=True):
            start, stop = max(offset, window.offset), min(end, window.offset + window.length)
            if start >= stop:
                continue
            part[start - offset : stop - offset] = window.plain[start - window.offset : stop - window.offset]
            first, last = np.searchsorted(absent, (start - window.offset - CHUNK_SIZE_MIN + 1, stop - window.offset))
            for block in (absent[first:last] + window.offset).tolist():
                begin, end_of_block = max(block, start), min(block + CHUNK_SIZE_MIN, stop)
                part[begin - offset : end_of_block - offset] = bytes(end_of_block - begin)
    return [bytes(part) for part in parts]


def united(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return sorted, disjoint ranges (start, end) that cover the same bytes."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined
