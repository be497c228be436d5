"""Packs as a source: their chunks laid side by side on a made-up disk, so that the engine can read them all again."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from dataplane.dataclass import dataclass
from dataplane.engine.packs import select_chunks
from dataplane.engine.table import DigestTable
from dataplane.errors import Corrupt, DataplaneError
from dataplane.extent import WINDOW_SIZE, Extent, pack_batch
from dataplane.image_source import ImageSource
from dataplane.store import format as fmt
from dataplane.store.pack import read_table
from dataplane.store.pack_readers import PackReaders
from dataplane.store.runs import Index
from dataplane.store.store import Store

PACKS_OPEN_MAX = 16
"""Packs kept open beside those being read: each is read once, from its start to its end."""

NO_CHUNK_SIZE = 1 << 40
"""A chunk size that no chunk has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One encoded chunk, manifest page or root in a pack. Offsets and lengths are in bytes."""

    pack: bytes
    id: bytes
    offset: int
    stored_length: int
    plain_length: int


Columns = tuple[bytes, "array[int]", "memoryview | array[int]", "memoryview | array[int]"]
"""Ids (32 bytes each), offsets, stored lengths and plain lengths of the chunks of a pack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which chunks to read: those in `wanted` (all, when None), and of these a `share`, picked by `seed`."""

    wanted: DigestTable | None = None
    share: float = 1.0
    seed: int = 0


class PackPiece:
    """What is read of one pack. `chunks` are extents of the made-up disk; `others` are objects of other sizes."""

    def __init__(
        self, pack: bytes, offset: int, batch: memoryview | None, ids: bytes, others: list[StoredObject]
    ) -> None:
        self.pack = pack
        self.offset = offset
        self.batch = batch
        self.ids = ids
        self.others = others
        self.table_damage: str | None = None

    def expected_ids(self, offset: int, length: int, chunk_size: int) -> memoryview:
        """Return the ids (32 bytes each) of the chunks in a window of the made-up disk."""
        first = (offset - self.offset) // chunk_size
        return memoryview(self.ids)[first * fmt.ID_SIZE : (first + -(-length // chunk_size)) * fmt.ID_SIZE]

    def objects(self, offset: int, length: int, chunk_size: int) -> Iterator[StoredObject]:
        """Yield the chunks in a window of the made-up disk."""
        assert self.batch is not None  # noqa: S101 - a window comes from the batch
        flat = self.batch.cast("B").cast("q")
        width = len(Extent._fields)
        for i in range(0, len(flat), width):
            row = Extent(*flat[i : i + width])
            stored_length = min(row.source_length, chunk_size)  # rows of several chunks are not compressed
            for skipped in range(0, row.length, chunk_size):
                if offset <= row.offset + skipped < offset + length:
                    at = (row.offset + skipped - self.offset) // chunk_size * fmt.ID_SIZE
                    yield StoredObject(
                        pack=self.pack,
                        id=self.ids[at : at + fmt.ID_SIZE],
                        offset=row.source_offset + skipped,
                        stored_length=stored_length,
                        plain_length=chunk_size,
                    )


class PackContents(ImageSource):
    """The chosen chunks of some packs of one dedup domain, in pack order. Each pack begins at a multiple of 4 MiB.

    Tables are read as the packs come up. A pack whose own table is damaged is read by what the index knows of it. No
    more packs are begun once `deadline` (of the monotonic clock) has passed.
    """

    format = "packs"
    own_data = True

    def __init__(
        self, store: Store, index: Index, packs: Sequence[bytes], selection: Selection, deadline: float | None
    ) -> None:
        self._store = store
        self._index = index
        self._names = list(packs)
        self._selection = selection
        self._deadline = deadline
        self.virtual_size = 0
        self.decoded_size_max = store.chunk_size
        self.readers: PackReaders = PackReaders(store, self._names, PACKS_OPEN_MAX)
        self.pieces: list[PackPiece] = []
        self._placed: list[PackPiece] = []  # those with a batch, and where each begins
        self._starts: list[int] = []

    def extents(self) -> Iterator[memoryview]:
        """Yield a batch for each pack with chosen chunks."""
        for reader, name in enumerate(self._names):
            if self._deadline is not None and time.monotonic() >= self._deadline:
                return
            piece = self._piece(name, reader)
            self.pieces.append(piece)
            if piece.batch is not None:
                self._placed.append(piece)
                self._starts.append(piece.offset)
                end = piece.offset + len(piece.ids) // fmt.ID_SIZE * self._store.chunk_size
                self.virtual_size = fmt.round_up(end, WINDOW_SIZE)
                yield piece.batch
                if self.virtual_size > end:
                    yield pack_batch([Extent(end, self.virtual_size - end, 0)])

    def _piece(self, name: bytes, reader: int) -> PackPiece:
        damage = None
        columns: Columns
        try:
            columns = table_columns(self._store, name)
        except DataplaneError as error:
            damage = str(error)
            columns = self._index.chunks_of(name)
        ids, offsets, stored, plain = columns
        # Without a file there is nothing to lay out: every chunk is then looked at, and found missing, by itself.
        chunk_size = self._store.chunk_size if self._can_open(reader) else NO_CHUNK_SIZE
        chosen = self._selection
        batch, kept, others = select_chunks(
            ids, offsets, stored, plain, chunk_size, self.virtual_size, reader, chosen.wanted, chosen.share, chosen.seed
        )
        objects = [
            StoredObject(
                pack=name,
                id=ids[i * fmt.ID_SIZE : (i + 1) * fmt.ID_SIZE],
                offset=offsets[i],
                stored_length=stored[i],
                plain_length=plain[i],
            )
            for i in others
        ]
        piece = PackPiece(name, self.virtual_size, batch, kept, objects)
        piece.table_damage = damage
        return piece

    def _can_open(self, reader: int) -> bool:
        try:
            self.readers[reader].fileno()
        except Corrupt:
            return False
        return True

    def piece_at(self, offset: int) -> PackPiece:
        """Return the piece whose chunks lie at `offset` of the made-up disk."""
        return self._placed[bisect_right(self._starts, offset) - 1]

    def check_unchanged(self) -> None:
        """Packs never change; what is read is verified."""

    def close(self) -> None:
        """Close the packs."""
        self.readers.close()


def table_columns(store: Store, name: bytes) -> tuple[bytes, array[int], memoryview, memoryview]:
    """Return (ids, offsets, stored lengths, plain lengths) from a pack's own table; raises Corrupt or IoFailed."""
    table = read_table(store.layout.pack(name))
    offsets = array("q", accumulate(table.stored_lengths, initial=fmt.PACK_HEADER.size))
    offsets.pop()
    return table.ids, offsets, table.stored_lengths, table.plain_lengths
