"""A source of which only chosen ranges are read: the rest of the disk becomes holes."""

from __future__ import annotations

from collections.abc import Iterator

from dataplane.analysis.arrays import np
from dataplane.extent import COLUMN_COUNT, COLUMNS, ExtentCodec, ExtentKind
from dataplane.hints import TYPE_CHECKING
from dataplane.image_source import ImageSource

if TYPE_CHECKING:
    import numpy.typing as npt

    Rows = npt.NDArray[np.int64]
    """Extents: shape (n, COLUMN_COUNT)."""

    Ranges = npt.NDArray[np.int64]
    """Ranges of a disk: rows (start, end), bytes, ascending, without overlap."""

_OFFSET, _LENGTH, _KIND, _CODEC = (COLUMNS.index(name) for name in ("offset", "length", "kind", "codec"))
_SOURCE_OFFSET, _SOURCE_LENGTH = COLUMNS.index("source_offset"), COLUMNS.index("source_length")
_DECODED_OFFSET = COLUMNS.index("decoded_offset")


class PickedSource(ImageSource):
    """`source` with everything outside `ranges` left out; it keeps belonging to the caller.

    Tables are read as ever, data only where a range wants it: over a network nothing else is fetched.
    """

    def __init__(self, source: ImageSource, ranges: Ranges) -> None:
        self._source = source
        self._ranges = np.asarray(ranges, dtype=np.int64).reshape(-1, 2)
        self.format = source.format
        self.virtual_size = source.virtual_size
        self.readers = source.readers
        self.own_data = source.own_data
        self.decoded_size_max = source.decoded_size_max

    def extents(self) -> Iterator[memoryview]:
        """Yield the batches of the source, cut to the ranges; batches in which nothing is left become one hole."""
        for batch in self._source.extents():
            rows = np.asarray(batch, dtype=np.int64).reshape(-1, COLUMN_COUNT)
            yield np.ascontiguousarray(pick(rows, self._ranges)).data

    def check_unchanged(self) -> None:
        """Ask the source."""
        self._source.check_unchanged()

    def close(self) -> None:
        """Do nothing: the source is the caller's."""


def pick(rows: Rows, ranges: Ranges) -> Rows:
    """Return rows that cover the same bytes as `rows`, DATA only where a range meets DATA and HOLE elsewhere."""
    begin, end = int(rows[0, _OFFSET]), int(rows[-1, _OFFSET] + rows[-1, _LENGTH])
    data = rows[rows[:, _KIND] == ExtentKind.DATA]
    pieces = intersect(data, ranges)
    return fill_gaps(pieces, begin, end)


def intersect(data: Rows, ranges: Ranges) -> Rows:
    """Return the pieces of DATA rows that lie in ranges, in order."""
    starts, ends = data[:, _OFFSET], data[:, _OFFSET] + data[:, _LENGTH]
    first = np.searchsorted(ranges[:, 1], starts, side="right")
    last = np.searchsorted(ranges[:, 0], ends, side="left")
    counts = np.maximum(last - first, 0)
    row_of = np.repeat(np.arange(len(data)), counts)
    range_of = np.arange(len(row_of)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    pieces = data[row_of]
    begins = np.maximum(pieces[:, _OFFSET], ranges[range_of, 0])
    stops = np.minimum(pieces[:, _OFFSET] + pieces[:, _LENGTH], ranges[range_of, 1])
    skipped = begins - pieces[:, _OFFSET]
    raw = pieces[:, _CODEC] == ExtentCodec.RAW
    pieces[:, _OFFSET], pieces[:, _LENGTH] = begins, stops - begins
    pieces[raw, _SOURCE_OFFSET] += skipped[raw]
    pieces[raw, _SOURCE_LENGTH] = (stops - begins)[raw]
    pieces[~raw, _DECODED_OFFSET] += skipped[~raw]
    return pieces


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
