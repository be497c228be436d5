"""A stored image read back as an ImageSource: its manifest becomes extents that lie in packs."""

from __future__ import annotations

from collections.abc import Iterator

from dataplane.errors import Corrupt
from dataplane.extent import Extent, pack_batch
from dataplane.image_source import ImageSource
from dataplane.limits import PAGE_CHUNKS
from dataplane.store import format as fmt
from dataplane.store.pack_readers import PACKS_OPEN_MAX, PackReaders
from dataplane.store.store import Store


class StoredImage(ImageSource):
    """An image of a store as a source; `expected_ids` gives what its chunks must hash to. Raises Corrupt.

    No batch of its extents names more than `packs_open_max` packs, nor are more kept open beside those in use.
    """

    format = "stored"
    own_data = True

    def __init__(self, store: Store, root: bytes, domain: str, packs_open_max: int = PACKS_OPEN_MAX) -> None:
        self._store = store
        self._index = store.index()
        self.root = store.read_root(self._index, root, domain)
        if self.root.domain != domain:
            raise Corrupt(f"root {root.hex()} belongs to another dedup domain")
        self.key = store.domain_key(domain)
        self.virtual_size = self.root.virtual_size
        self.decoded_size_max = self.root.chunk_size
        self.readers: PackReaders = PackReaders(store, self._index.packs, packs_open_max)
        self._ids: dict[int, bytes] = {}

    def extents(self) -> Iterator[memoryview]:
        """Yield batches for each manifest page (one, unless it names very many packs), and for zeros between them."""
        chunk_size, end = self.root.chunk_size, self.virtual_size
        span = chunk_size * PAGE_CHUNKS
        position = 0
        for number, ids in self._store.read_pages(self._index, self.root):
            offset = number * span
            if offset > position:
                yield pack_batch([Extent(position, offset - position, 0)])
            count = min(PAGE_CHUNKS, -(-(end - offset) // chunk_size))
            self._ids[number] = ids
            batch = self._index.locate(memoryview(ids)[: count * fmt.ID_SIZE], offset, chunk_size, end)
            yield from self.readers.bounded(batch)
            position = min(offset + span, end)
        if position < end:
            yield pack_batch([Extent(position, end - position, 0)])

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """Yield (page number, ids) of every manifest page that is not all zero, verified, in disk order."""
        return self._store.read_pages(self._index, self.root)

    def expected_ids(self, offset: int, chunk_count: int) -> memoryview:
        """Return the ids (32 bytes each) of chunks from `offset`, all in one page that ``extents`` has yielded."""
        number, inside = divmod(offset, self.root.chunk_size * PAGE_CHUNKS)
        start = inside // self.root.chunk_size * fmt.ID_SIZE
        return memoryview(self._ids[number])[start : start + chunk_count * fmt.ID_SIZE]

    def forget_before(self, offset: int) -> None:
        """Drop the ids of pages that end at or before `offset`: nothing before it will be asked for again."""
        page = offset // (self.root.chunk_size * PAGE_CHUNKS)
        for number in [number for number in self._ids if number < page]:
            del self._ids[number]

    def check_unchanged(self) -> None:
        """Packs never change; what is read is verified chunk by chunk."""

    def close(self) -> None:
        """Close the packs."""
        self.readers.close()
