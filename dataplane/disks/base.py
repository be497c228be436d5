"""The base of a disk: a root of the store, read at random places, every chunk compared with its id."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from queue import Empty, LifoQueue

from dataplane.disks.chunk_cache import ChunkCache
from dataplane.engine.plan import Plan
from dataplane.engine.window import LoadFailure, Window
from dataplane.errors import Corrupt
from dataplane.extent import WINDOW_SIZE
from dataplane.limits import DECODED_SIZE_MAX, PAGE_CHUNKS
from dataplane.store import format as fmt
from dataplane.store.pack_readers import PACKS_OPEN_MAX, PackReaders
from dataplane.store.runs import Index
from dataplane.store.store import Store

CHUNKS_AT_ONCE = PACKS_OPEN_MAX
"""Chunks loaded by one call: they cannot lie in more packs than may be open."""

PAGES_KEPT = 512
"""Manifest pages kept in memory, 32 KiB each: those of a disk of 32 GiB."""

TRIES = 4
"""The collector may move chunks to other packs between looking them up and reading them."""

STRIPES = 64


class Places:
    """Where chunks lie: the index of the store and its packs as of some moment."""

    def __init__(self, store: Store) -> None:
        self.index: Index = store.index()
        self.readers = PackReaders(store, self.index.packs)


class StoredBase:
    """The disk that a pinned root describes. Safe for concurrent use; it closes with its last user.

    No lease is held: what keeps the chunks alive is the pin. When the collector has moved them they are looked up anew.
    """

    def __init__(self, store: Store, root: bytes, domain: str, cache: ChunkCache) -> None:
        """Read the root; raises Corrupt or IoFailed."""
        self.id = root
        self._store = store
        self._cache = cache
        self._places = Places(store)
        self._lock = threading.Lock()
        self.root = store.read_root(self._places.index, root, domain)
        if self.root.domain != domain:
            raise Corrupt(f"root {root.hex()} belongs to another dedup domain")
        self.size = self.root.virtual_size
        self.chunk_size = self.root.chunk_size
        self._key = store.domain_key(domain)
        self._page_ids = dict(self.root.pages)
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._windows: LifoQueue[Window] = LifoQueue()
        self._stripes = [threading.Lock() for _ in range(STRIPES)]

    # ------------------------------------------------------------------------------------------ what is where
    def chunk_id(self, number: int) -> bytes:
        """Return the id of a chunk of the disk, ZERO_ID for zeros and behind the end; raises Corrupt."""
        page, place = divmod(number, PAGE_CHUNKS)
        if page not in self._page_ids:
            return fmt.ZERO_ID
        ids = self._pages.get(page) or self._read_page(page)
        return ids[place * fmt.ID_SIZE : (place + 1) * fmt.ID_SIZE]

    def page(self, number: int) -> bytes | None:
        """Return the ids of a manifest page, or None when all of it is zeros; raises Corrupt."""
        if number not in self._page_ids:
            return None
        return self._pages.get(number) or self._read_page(number)

    def _read_page(self, number: int) -> bytes:
        what = f"manifest page {number}"
        for left in reversed(range(TRIES)):
            places = self._places
            try:
                ids = self._store.read_chunk(places.index, self._page_ids[number], self._key, what)
                break
            except Corrupt:
                if not left:
                    raise
                self._look_again(places)
        if len(ids) != fmt.PAGE_SIZE:
            raise Corrupt(f"{what} has {len(ids)} bytes, not {fmt.PAGE_SIZE}")
        with self._lock:
            self._pages[number] = ids
            while len(self._pages) > PAGES_KEPT:
                self._pages.popitem(last=False)
        return ids

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """Yield (length, whether there is data) of runs that make up a range, by chunks; raises Corrupt."""
        end = offset + length
        run, kind = 0, False
        while offset < end:
            number = offset // self.chunk_size
            page = number // PAGE_CHUNKS
            if page not in self._page_ids:  # a whole page of zeros at once
                stop, data = (page + 1) * PAGE_CHUNKS * self.chunk_size, False
            else:
                stop, data = (number + 1) * self.chunk_size, self.chunk_id(number) != fmt.ZERO_ID
            step = min(stop, end) - offset
            if run and data != kind:
                yield run, kind
                run = 0
            run, kind = run + step, data
            offset += step
        if run:
            yield run, kind

    # ------------------------------------------------------------------------------------------ reading
    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the disk from `offset`, zeros behind its end; raises Corrupt or IoFailed."""
        while view:
            length = min(len(view), WINDOW_SIZE - offset % WINDOW_SIZE)
            missing = self._copy_cached(offset, view[:length])
            if missing:
                self._copy_loaded(offset, view[:length], missing)
            offset += length
            view = view[length:]

    def read_cached(self, offset: int, view: memoryview) -> bool:
        """Fill `view` when that takes no reading from the store, and tell whether it did."""
        chunk_size = self.chunk_size
        for number in range(offset // chunk_size, (offset + len(view) - 1) // chunk_size + 1):
            page = number // PAGE_CHUNKS
            if page not in self._page_ids:
                continue
            if page not in self._pages:
                return False
            id = self.chunk_id(number)
            if id != fmt.ZERO_ID and not self._cache.has(id):
                return False
        return not self._copy_cached(offset, view)

    def warm(self, offset: int, length: int) -> None:
        """Bring the chunks of a range into the cache; raises Corrupt or IoFailed."""
        end = min(offset + length, self.size)
        while offset < end:
            stop = min(end, offset - offset % WINDOW_SIZE + WINDOW_SIZE)
            numbers = range(offset // self.chunk_size, (stop - 1) // self.chunk_size + 1)
            wanted = [number for number in numbers if not self._is_at_hand(number)]
            if wanted:
                with self._stripes[offset // WINDOW_SIZE % STRIPES]:
                    self._load([number for number in wanted if not self._is_at_hand(number)])
            offset = stop

    def _is_at_hand(self, number: int) -> bool:
        id = self.chunk_id(number)
        return id == fmt.ZERO_ID or self._cache.has(id)

    def _copy_cached(self, offset: int, view: memoryview) -> list[int]:
        """Copy what is at hand of a range, and return the numbers of the chunks that are not."""
        missing = []
        for number, at, start, stop in self._pieces(offset, len(view)):
            id = self.chunk_id(number)
            if id == fmt.ZERO_ID:
                view[at : at + stop - start] = bytes(stop - start)
            elif (chunk := self._cache.get(id)) is not None:
                view[at : at + stop - start] = memoryview(chunk)[start:stop]
            else:
                missing.append(number)
        return missing

    def _copy_loaded(self, offset: int, view: memoryview, missing: list[int]) -> None:
        """Load chunks of one window, unless somebody else just has, and copy what a range has of them."""
        with self._stripes[offset // WINDOW_SIZE % STRIPES]:
            chunks = self._load(missing)
        for number, at, start, stop in self._pieces(offset, len(view)):
            if number in chunks:
                view[at : at + stop - start] = memoryview(chunks[number])[start:stop]

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (chunk number, where its part begins in the range, first and last byte of the chunk) of a range."""
        position, end = offset, offset + length
        while position < end:
            number, start = divmod(position, self.chunk_size)
            stop = min(self.chunk_size, start + end - position)
            yield number, position - offset, start, stop
            position += stop - start

    def _load(self, numbers: list[int]) -> dict[int, bytes]:
        """Return chunks of one window that are not zero, by number, and keep them in the cache."""
        chunks: dict[int, bytes] = {}
        wanted = []
        for number in numbers:
            chunk = self._cache.get(self.chunk_id(number))
            if chunk is None:
                wanted.append(number)
            else:
                chunks[number] = chunk
        for first, count in neighbours(wanted):
            for left in reversed(range(TRIES)):
                places = self._places
                try:
                    chunks.update(self._load_neighbours(places, first, count))
                    break
                except Corrupt:
                    if not left:
                        raise
                    self._look_again(places)
        return chunks

    def _load_neighbours(self, places: Places, first: int, count: int) -> dict[int, bytes]:
        chunk_size = self.chunk_size
        ids = b"".join(self.chunk_id(number) for number in range(first, first + count))
        offset = first * chunk_size
        batch = places.index.locate(memoryview(ids), offset, chunk_size, self.size)
        plan = Plan(batch, WINDOW_SIZE, DECODED_SIZE_MAX)
        held = [(number, places.readers[number]) for number in plan.readers()]
        fds = array("i", [-1]) * (plan.reader_max + 1 or 1)
        for number, reader in held:
            fds[number] = reader.fileno() or -1
        try:
            window = self._windows.get_nowait()
        except Empty:
            window = Window(WINDOW_SIZE, chunk_size, self._key)
        try:
            window.load(plan, 0, fds)
            return self._taken(window, first, ids)
        except LoadFailure as failure:
            name = places.readers[failure.reader].name
            raise Corrupt(f"{name} is damaged or unreadable at {failure.offset} (errno {failure.error})") from failure
        finally:
            self._windows.put(window)

    def _taken(self, window: Window, first: int, ids: bytes) -> dict[int, bytes]:
        """Return the chunks of a loaded window from number `first` on, verified."""
        chunk_size = self.chunk_size
        start = first - window.offset // chunk_size
        count = len(ids) // fmt.ID_SIZE
        got = bytes(window.digests[start * fmt.ID_SIZE : (start + count) * fmt.ID_SIZE])
        if got != ids:
            wrong = next(i for i in range(count) if got[i * 32 : i * 32 + 32] != ids[i * 32 : i * 32 + 32])
            at = (first + wrong) * chunk_size
            raise Corrupt(f"the chunk at {at} of the disk's base does not match its id: its pack is damaged")
        plain = window.plain
        chunks = {}
        for place in range(count):
            at = (start + place) * chunk_size
            chunk = chunks[first + place] = bytes(plain[at : at + chunk_size])
            self._cache.put(ids[place * fmt.ID_SIZE : (place + 1) * fmt.ID_SIZE], chunk)
        return chunks

    def _look_again(self, places: Places) -> None:
        """Look up anew where chunks lie, unless another thread has since."""
        with self._lock:
            if self._places is places:
                self._places = Places(self._store)


def neighbours(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of runs of ascending numbers, none longer than may be loaded at once."""
    at = 0
    while at < len(numbers):
        stop = at + 1
        while stop < len(numbers) and numbers[stop] == numbers[stop - 1] + 1 and stop - at < CHUNKS_AT_ONCE:
            stop += 1
        yield numbers[at], stop - at
        at = stop
