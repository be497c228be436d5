"""The packs of a store as readers of an image source, few of them open at a time however many there are."""

from __future__ import annotations

import resource
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from dataplane.byte_reader import ByteReader
from dataplane.errors import Corrupt, SourceError
from dataplane.extent import COLUMNS, WINDOW_SIZE, ExtentKind
from dataplane.hints import TYPE_CHECKING
from dataplane.readers.file import FileReader
from dataplane.store.store import Store

if TYPE_CHECKING:
    from typing import overload

PACKS_OPEN_MAX = 256
"""Descriptors kept for packs at most: those of one batch of extents, and as many for the packs used last."""

WIDTH = len(COLUMNS)


def packs_open_max(threads: int) -> int:
    """Return how many packs one batch may name, so that all batches under way take half of this process's descriptors.

    Each thread may work on a batch of its own, while the next one is cut and the packs used last are kept.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return PACKS_OPEN_MAX
    return max(1, min(PACKS_OPEN_MAX, allowed // 2 // (threads + 2)))


class PackReader(FileReader):
    """An open pack. It closes with its last user: whoever reads through its descriptor holds on to the reader."""

    def __del__(self) -> None:
        self.close()


class FleetingPack(ByteReader):
    """A pack that is opened for each read: for windows whose chunks lie in more packs than may be open."""

    def __init__(self, readers: PackReaders, index: int) -> None:
        self._readers = readers
        self._index = index
        self.name = readers.path_of(index)
        self.size = 0

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``; raises Corrupt when the pack is missing or too short."""
        reader = self._readers[self._index]
        try:
            return reader.read_at(offset, length)
        except SourceError as error:
            raise Corrupt(f"pack {self.name} is damaged: {error}") from error

    def close(self) -> None:
        """Nothing stays open."""


class PackReaders(Sequence[ByteReader]):
    """Packs as readers, opened when first asked for; the `open_max` used last stay open. Safe for concurrent use.

    Behind the packs come as many fleeting ones: index `len(names) + i` is pack `i` without a descriptor.
    """

    def __init__(self, store: Store, names: Sequence[bytes], open_max: int = PACKS_OPEN_MAX) -> None:
        self._paths = [store.layout.pack(name) for name in names]
        self._open: OrderedDict[int, PackReader] = OrderedDict()
        self._open_max = open_max
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return 2 * len(self._paths)

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, index: int) -> ByteReader: ...
        @overload
        def __getitem__(self, index: slice) -> Sequence[ByteReader]: ...

    def __getitem__(self, index: int | slice) -> ByteReader | Sequence[ByteReader]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index >= len(self._paths):
            return FleetingPack(self, index - len(self._paths))
        with self._lock:
            reader = self._open.get(index)
            if reader is None:
                try:
                    reader = PackReader(self._paths[index])
                except SourceError as error:
                    raise Corrupt(f"pack {self._paths[index].name} cannot be read: {error}") from error
                self._open[index] = reader
                if len(self._open) > self._open_max:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(index)
            return reader

    def path_of(self, index: int) -> str:
        """Return the file name of a pack."""
        return self._paths[index].name

    def bounded(self, batch: memoryview) -> Iterator[memoryview]:
        """Yield a batch as it is, or in pieces none of which names more packs than may be open.

        Pieces end where windows do. One that still names too many has its rows turned to fleeting packs.
        """
        if len(set(batch.cast("B").cast("q")[COLUMNS.index("reader") :: WIDTH])) <= self._open_max:
            yield batch
            return
        piece, named = array("q"), set[int]()
        for rows, readers in window_groups(batch):
            if piece and len(named | readers) > self._open_max:
                yield self._batch(piece, named)
                piece, named = array("q"), set()
            piece += rows
            named |= readers
        yield self._batch(piece, named)

    def _batch(self, flat: array[int], named: set[int]) -> memoryview:
        if len(named) > self._open_max:
            kind, reader = COLUMNS.index("kind"), COLUMNS.index("reader")
            for at in range(0, len(flat), WIDTH):
                if flat[at + kind] == ExtentKind.DATA:
                    flat[at + reader] += len(self._paths)
        return memoryview(flat).cast("B").cast("q", (len(flat) // WIDTH, WIDTH))

    def close(self) -> None:
        """Close what is open, whether it is still used or not; a second call does nothing."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()


def window_groups(batch: memoryview) -> Iterator[tuple[array[int], set[int]]]:
    """Yield (rows, packs they name) of a batch, cut wherever a row begins at a multiple of the window size."""
    flat = batch.cast("B").cast("q").tolist()
    rows, named = array("q"), set[int]()
    offset, kind, reader = COLUMNS.index("offset"), COLUMNS.index("kind"), COLUMNS.index("reader")
    for at in range(0, len(flat), WIDTH):
        row = flat[at : at + WIDTH]
        if rows and row[offset] % WINDOW_SIZE == 0:
            yield rows, named
            rows, named = array("q"), set()
        rows.extend(row)
        if row[kind] == ExtentKind.DATA:
            named.add(row[reader])
    yield rows, named
