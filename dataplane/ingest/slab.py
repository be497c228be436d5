"""Slab: the bytes that one window reads over a network, where they are fetched to and where native code finds them."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from dataplane.dataclass import dataclass
from dataplane.ingest.staging import Range


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a slab that another one has too: `length` bytes at `source_at` there are those at `at` here."""

    source: Slab
    source_at: int
    at: int
    length: int


class Slab:
    """A buffer for `ranges`, which are sorted, without overlap, and lie in it one behind the other.

    Its owner counts, under a lock of its own: `pending` requests, and `users`, the windows that still read it.
    """

    def __init__(self, ranges: Sequence[Range], view: memoryview) -> None:
        """Take a buffer of at least as many bytes as `ranges` have."""
        self.ranges = ranges
        self.view = view
        self.positions: list[int] = []
        self.length = 0
        for _, _, length in ranges:
            self.positions.append(self.length)
            self.length += length
        self.fetched: list[tuple[int, int, int, int]] = []
        """(reader, offset, length, position) of what is fetched for this slab itself, sorted."""
        self.pending = 0
        self.users = 1
        self.error: BaseException | None = None
        self.pieces: list[Piece] = []

    def rows(self) -> memoryview:
        """Return int64 rows (reader, source offset, length, position in the buffer), as ``Window.load`` takes them."""
        rows = array("q")
        for (reader, offset, length), position in zip(self.ranges, self.positions, strict=True):
            rows.extend((reader, offset, length, position))
        return memoryview(rows).cast("B").cast("q", (len(rows) // 4, 4))

    def overlaps(self, wanted: Range) -> Iterator[tuple[int, int, int]]:
        """Yield (offset, length, position in the buffer) of what is fetched here of `wanted`, in order."""
        reader, offset, length = wanted
        end = offset + length
        if not self.fetched or (reader, end) <= self.fetched[0][:2]:
            return
        last_reader, last_offset, last_length, _ = self.fetched[-1]
        if (last_reader, last_offset + last_length) <= (reader, offset):
            return
        number = max(0, bisect_right(self.fetched, (reader, offset, 0, 0)) - 1)
        while number < len(self.fetched) and self.fetched[number][:2] < (reader, end):
            held_reader, held_offset, held_length, position = self.fetched[number]
            start, stop = max(offset, held_offset), min(end, held_offset + held_length)
            if held_reader == reader and start < stop:
                yield start, stop - start, position + start - held_offset
            number += 1

    def take_pieces(self) -> None:
        """Copy what other slabs have fetched; they must be complete."""
        for piece in self.pieces:
            self.view[piece.at : piece.at + piece.length] = piece.source.view[
                piece.source_at : piece.source_at + piece.length
            ]
