"""ChainSource: images laid over one another; where one has never held anything, the one below it shows through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dataplane.engine.batches import first_hole, lay_over, moved
from dataplane.extent import COLUMN_COUNT, Extent, ExtentKind, pack_batch
from dataplane.formats.tables import new_rows
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
        rows = new_rows()
        for batch, end in self._spans():
            rows.add_rows(batch, end)
            yield from rows.take(end)
        yield from rows.take(self.virtual_size, last=True)

    def _spans(self) -> Iterator[tuple[memoryview, int]]:
        """Yield the disk in order: rows, holes among them, and where (bytes) they count."""
        cursors = []
        first_reader = 0
        for layer in self._layers:
            cursors.append(_Cursor(layer, self.virtual_size, first_reader))
            first_reader += len(layer.readers)
        position = 0
        while position < self.virtual_size:
            rows, end = cursors[0].covering(position)
            for cursor in cursors[1:]:
                hole = first_hole(rows, position, end)
                if hole < 0:
                    break
                below, below_end = cursor.covering(hole)
                # Ends of batches are ends of windows, which no compressed row crosses.
                end = min(end, below_end)
                rows = lay_over(rows, below, position, end)
            yield rows, end
            position = end


class _Cursor:
    """One image's map, read forwards; it covers the whole disk, however long the image is."""

    def __init__(self, layer: ImageSource, size: int, first_reader: int) -> None:
        self._batches = layer.extents()
        self._layer_end = min(layer.virtual_size, size)
        self._size = size
        self._first_reader = first_reader
        self._rows = memoryview(b"")
        self._end = 0

    def covering(self, position: int) -> tuple[memoryview, int]:
        """Return rows that hold ``position``, and where they end (bytes).

        Positions only grow, and lie inside the disk. The rows may begin before ``position``.
        """
        while self._end <= position:
            self._advance()
        return self._rows, self._end

    def _advance(self) -> None:
        if self._end >= self._layer_end:
            self._rows, self._end = _zeros(self._end, self._size), self._size
            return
        rows = moved(next(self._batches), self._first_reader, self._size)
        end = rows[-1, 0] + rows[-1, 1]
        if end == self._layer_end < self._size:
            # The rest comes with the last batch, so that this one ends with a window like any other.
            flat = memoryview(rows.tobytes() + _zeros(end, self._size).tobytes())
            rows, end = flat.cast("q", (len(rows) + 1, COLUMN_COUNT)), self._size
        self._rows, self._end = rows, end


def _zeros(start: int, end: int) -> memoryview:
    """Return one ZERO row from ``start`` to ``end`` (bytes)."""
    return pack_batch([Extent(start, end - start, ExtentKind.ZERO)])
