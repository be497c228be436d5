"""Rows of extents, as numpy arrays, made into batches: gaps become holes, neighbours merge, ends meet windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dataplane.extent import COLUMN_COUNT, COLUMNS, WINDOW_SIZE, ExtentCodec, ExtentKind

Rows = npt.NDArray[np.int64]
"""Extents: shape (n, COLUMN_COUNT)."""

ROWS_MAX = 8192
"""Rows in one batch. A window has at most as many, because no extent but the last is shorter than a sector."""

_OFFSET = COLUMNS.index("offset")
_LENGTH = COLUMNS.index("length")
_KIND = COLUMNS.index("kind")
_CODEC = COLUMNS.index("codec")
_READER = COLUMNS.index("reader")
_SOURCE_OFFSET = COLUMNS.index("source_offset")
_SOURCE_LENGTH = COLUMNS.index("source_length")


class Batcher:
    """Cuts a stream of rows into batches that cover ``[0, end)`` as ``ImageSource.extents`` promises.

    Rows come in order, without overlap, each a multiple of 512 bytes except at the very end; what they leave out is
    HOLE. Compressed rows do not cross a multiple of WINDOW_SIZE.
    """

    def __init__(self) -> None:
        self._position = 0  # bytes that batches have covered
        self._held = empty_rows()  # rows behind the last whole window

    def add(self, rows: Rows, known_end: int) -> Iterator[memoryview]:
        """Take ``rows``, which tell all there is before ``known_end`` (bytes), and yield whole windows."""
        yield from self._cut(rows, known_end // WINDOW_SIZE * WINDOW_SIZE)

    def finish(self, rows: Rows, end: int) -> Iterator[memoryview]:
        """Take the last rows and yield everything up to ``end`` (bytes), the size of the image."""
        yield from self._cut(rows, end)

    def _cut(self, rows: Rows, end: int) -> Iterator[memoryview]:
        pending = merge(np.concatenate((self._held, rows)))
        if end <= self._position:
            self._held = pending
            return
        due, self._held = split(pending, end)
        due = fill_gaps(due, self._position, end)
        self._position = end
        while len(due) > ROWS_MAX:
            cut = int(due[ROWS_MAX, _OFFSET]) // WINDOW_SIZE * WINDOW_SIZE
            batch, due = split(due, cut)
            yield _as_batch(batch)
        yield _as_batch(due)


def empty_rows() -> Rows:
    """Return no rows."""
    return np.zeros((0, COLUMN_COUNT), dtype=np.int64)


def merge(rows: Rows) -> Rows:
    """Return ``rows`` with neighbours joined that continue each other, on the disk and at their source."""
    if len(rows) < 2:
        return rows
    left, right = rows[:-1], rows[1:]
    data = left[:, _KIND] == ExtentKind.DATA
    joins = (left[:, _OFFSET] + left[:, _LENGTH] == right[:, _OFFSET]) & (left[:, _KIND] == right[:, _KIND])
    joins &= ~data | (left[:, _CODEC] == ExtentCodec.RAW) & (right[:, _CODEC] == ExtentCodec.RAW) & (
        left[:, _READER] == right[:, _READER]
    ) & (left[:, _SOURCE_OFFSET] + left[:, _SOURCE_LENGTH] == right[:, _SOURCE_OFFSET])
    firsts = np.concatenate(([0], np.flatnonzero(~joins) + 1))
    merged = rows[firsts]
    merged[:, _LENGTH] = np.add.reduceat(rows[:, _LENGTH], firsts)
    merged[:, _SOURCE_LENGTH] = np.add.reduceat(rows[:, _SOURCE_LENGTH], firsts)
    return merged


def split(rows: Rows, at: int) -> tuple[Rows, Rows]:
    """Return the rows before ``at`` (bytes) and those from it on; a row across it is cut in two."""
    index = int(np.searchsorted(rows[:, _OFFSET], at))
    if index == 0:
        return rows[:0], rows
    first, second = rows[:index].copy(), rows[index:]
    over = int(first[-1, _OFFSET] + first[-1, _LENGTH]) - at
    if over <= 0:
        return first, second
    tail = first[-1:].copy()
    kept = int(tail[0, _LENGTH]) - over
    if tail[0, _CODEC] != ExtentCodec.RAW:
        raise ValueError(f"a compressed extent lies across {at}")
    first[-1, _LENGTH] = kept
    tail[0, _OFFSET], tail[0, _LENGTH] = at, over
    if tail[0, _KIND] == ExtentKind.DATA:
        first[-1, _SOURCE_LENGTH] = kept
        tail[0, _SOURCE_OFFSET] += kept
        tail[0, _SOURCE_LENGTH] = over
    return first, np.concatenate((tail, second))


def fill_gaps(rows: Rows, start: int, end: int) -> Rows:
    """Return ``rows`` with HOLE rows put in, so that they cover ``[start, end)`` without a gap."""
    edges = np.concatenate((rows[:, _OFFSET], [end]))  # where each gap ends
    begins = np.concatenate(([start], rows[:, _OFFSET] + rows[:, _LENGTH]))
    gaps = np.flatnonzero(edges > begins)
    filled = np.zeros((len(rows) + len(gaps), COLUMN_COUNT), dtype=np.int64)
    # A gap goes in front of the row with its number; gaps in front of it push each row on.
    hole_at = gaps + np.arange(len(gaps))
    is_row = np.ones(len(filled), dtype=bool)
    is_row[hole_at] = False
    filled[is_row] = rows
    filled[hole_at, _OFFSET] = begins[gaps]
    filled[hole_at, _LENGTH] = (edges - begins)[gaps]
    filled[hole_at, _KIND] = ExtentKind.HOLE
    return filled


def _as_batch(rows: Rows) -> memoryview:
    return np.ascontiguousarray(rows).data
