"""ChainSource: images laid over one another; where one has never held anything, the one below it shows through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dataplane.extent import ExtentCodec, ExtentKind
from dataplane.formats.batches import Batcher, Rows, empty_rows, split
from dataplane.formats.tables import AT, zero_row
from dataplane.image_source import ImageSource


class ChainSource(ImageSource):
    """A disk made of several images, the topmost first. It has the size and the format of the topmost one.

    A HOLE of an image shows what lies below it; ZERO and DATA hide it. An image that is shorter than the disk reads
    as zeros behind its end, whatever lies below it; what is longer is clipped. Maps are read in step and lazily: of
    each image one batch is held, and none of an image that is wholly hidden so far.
    """

    def __init__(self, layers: Sequence[ImageSource]) -> None:
        """Take over ``layers``, at least one, which ``close`` closes."""
        self._layers = tuple(layers)
        self.format = layers[0].format
        self.virtual_size = layers[0].virtual_size
        self.readers = tuple(reader for layer in layers for reader in layer.readers)
        self.decoded_size_max = max(layer.decoded_size_max for layer in layers)

    def extents(self) -> Iterator[memoryview]:
        """Yield batches as the images below give theirs; raises what reading their maps raises."""
        batcher = Batcher()
        end = 0
        for rows, end in self._spans():
            yield from batcher.add(rows[rows[:, AT["kind"]] != ExtentKind.HOLE], end)
        if end:
            yield from batcher.finish(empty_rows(), end)

    def _spans(self) -> Iterator[tuple[Rows, int]]:
        """Yield the disk in order: rows, holes among them, and where (bytes) they end."""
        cursors = []
        first_reader = 0
        for layer in self._layers:
            cursors.append(_Cursor(layer, self.virtual_size, first_reader))
            first_reader += len(layer.readers)
        position = 0
        while position < self.virtual_size:
            rows, end = cursors[0].covering(position)
            rows = split(rows, position)[1]
            for cursor in cursors[1:]:
                holes = np.flatnonzero(rows[:, AT["kind"]] == ExtentKind.HOLE)
                if len(holes) == 0:
                    break
                below, below_end = cursor.covering(int(rows[holes[0], AT["offset"]]))
                if below_end < end:
                    # Ends of batches are ends of windows, which no compressed row crosses.
                    rows, end = split(rows, below_end)[0], below_end
                rows = lay_over(rows, below)
            yield rows, end
            position = end


class _Cursor:
    """One image's map, read forwards; it covers the whole disk, however long the image is."""

    def __init__(self, layer: ImageSource, size: int, first_reader: int) -> None:
        self._batches = layer.extents()
        self._layer_end = min(layer.virtual_size, size)
        self._size = size
        self._first_reader = first_reader
        self._rows = empty_rows()
        self._end = 0

    def covering(self, position: int) -> tuple[Rows, int]:
        """Return the rows at hand from the one that holds ``position`` on, and where they end (bytes).

        Positions only grow, and lie inside the disk. The first row may begin before ``position``.
        """
        while self._end <= position:
            self._advance()
        index = int(np.searchsorted(self._rows[:, AT["offset"]], position, side="right")) - 1
        self._rows = self._rows[index:]
        return self._rows, self._end

    def _advance(self) -> None:
        if self._end >= self._layer_end:
            self._rows, self._end = zero_row(self._end, self._size - self._end), self._size
            return
        rows = np.array(next(self._batches), dtype=np.int64)
        rows[rows[:, AT["kind"]] == ExtentKind.DATA, AT["reader"]] += self._first_reader
        end = int(rows[-1, AT["offset"]] + rows[-1, AT["length"]])
        if end > self._size:
            rows, end = _clip(rows, self._size), self._size
        if end == self._layer_end < self._size:
            # The rest comes with the last batch, so that this one ends with a window like any other.
            rows, end = np.concatenate((rows, zero_row(end, self._size - end))), self._size
        self._rows, self._end = rows, end


def lay_over(upper: Rows, lower: Rows) -> Rows:
    """Return ``upper`` with its holes filled by what ``lower`` has there; both are without gaps.

    ``lower`` covers every hole of ``upper``. Neighbours are not merged.
    """
    starts, lower_starts = upper[:, AT["offset"]], lower[:, AT["offset"]]
    end = int(upper[-1, AT["offset"]] + upper[-1, AT["length"]])
    inside = lower_starts[(lower_starts > starts[0]) & (lower_starts < end)]
    inside = inside[upper[np.searchsorted(starts, inside, side="right") - 1, AT["kind"]] == ExtentKind.HOLE]
    cuts = np.union1d(starts, inside)
    ends = np.append(cuts[1:], end)
    merged: Rows = upper[np.searchsorted(starts, cuts, side="right") - 1]
    shown = np.flatnonzero(merged[:, AT["kind"]] == ExtentKind.HOLE)
    if len(shown) == 0:
        return merged
    below = lower[np.searchsorted(lower_starts, cuts[shown], side="right") - 1]
    _cut_to(below, cuts[shown], ends[shown])
    merged[shown] = below
    return merged


def _cut_to(rows: Rows, starts: Rows, ends: Rows) -> None:
    """Shrink each of ``rows`` to its range from ``starts`` to ``ends`` (bytes), in place."""
    skipped = starts - rows[:, AT["offset"]]
    rows[:, AT["offset"]] = starts
    rows[:, AT["length"]] = ends - starts
    raw = (rows[:, AT["kind"]] == ExtentKind.DATA) & (rows[:, AT["codec"]] == ExtentCodec.RAW)
    packed = rows[:, AT["codec"]] != ExtentCodec.RAW
    rows[raw, AT["source_offset"]] += skipped[raw]
    rows[raw, AT["source_length"]] = rows[raw, AT["length"]]
    rows[packed, AT["decoded_offset"]] += skipped[packed]


def _clip(rows: Rows, end: int) -> Rows:
    """Return the part of ``rows`` before ``end`` (bytes)."""
    kept = rows[rows[:, AT["offset"]] < end]
    starts = kept[:, AT["offset"]].copy()
    _cut_to(kept, starts, np.minimum(starts + kept[:, AT["length"]], end))
    return kept
