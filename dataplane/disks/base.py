"""The base of a disk: a root of the store, read at random places, every chunk compared with its id."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from dataplane.disks.pool import Pool  # which reads a base to be built

CHUNKS_AT_ONCE = PACKS_OPEN_MAX
"""Chunks loaded by one call: they cannot lie in more packs than may be open."""

PAGES_KEPT = 512
"""Manifest pages kept in memory, 32 KiB each: those of a disk of 32 GiB."""

TRIES = 4
"""The collector may move chunks to other packs between looking them up and reading them."""

STRIPE_SIZE = 256 << 10
STRIPES = 64
"""Chunks are loaded by stripes, of one chunk at least; those who need the same one wait for the first of them."""

PASSING_CHUNKS = 4
"""A read of so many chunks passes the cache by: one that goes through a whole disk would leave nothing in it."""

NOWHERE = memoryview(b"")


class Places:
    """Where chunks lie: the index of the store and its packs as of some moment."""

    def __init__(self, store: Store) -> None:
        self.index: Index = store.index()
        self.readers = PackReaders(store, self.index.packs)


class StoredBase:
    """The disk that a pinned root describes. Safe for concurrent use; it closes with its last user.

    No lease is held: what keeps the chunks alive is the pin. When the collector has moved them they are looked up anew.
    """

    def __init__(self, store: Store, root: bytes, domain: str, cache: ChunkCache, pool: Pool | None = None) -> None:
        """Read the root; what `pool` has is read from there. Raises Corrupt or IoFailed."""
        self.id = root
        self._store = store
        self._cache = cache
        self._pool = pool
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
        self._windows: list[Window] = []
        self._stripe_size = max(STRIPE_SIZE, self.chunk_size)
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
        ids = self._pool.get(self._page_ids[number]) if self._pool is not None else None
        if ids is None:
            ids = self._read_stored_page(number, what)
        if len(ids) != fmt.PAGE_SIZE:
            raise Corrupt(f"{what} has {len(ids)} bytes, not {fmt.PAGE_SIZE}")
        with self._lock:
            self._pages[number] = ids
            while len(self._pages) > PAGES_KEPT:
                self._pages.popitem(last=False)
        return ids

    def _read_stored_page(self, number: int, what: str) -> bytes:
        for left in reversed(range(TRIES)):
            places = self._places
            try:
                return self._store.read_chunk(places.index, self._page_ids[number], self._key, what)
            except Corrupt:
                if not left:
                    raise
                self._look_again(places)
        raise AssertionError("unreachable: the last try returns or raises")

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """Yield (length, whether there is data) of runs that make up a range, by chunks; raises Corrupt."""
        position, end = offset, offset + length
        run, kind = 0, False
        span = self.chunk_size * PAGE_CHUNKS
        while position < end:
            stop = min(end, position - position % span + span)
            for step, data in self._page_extents(position, stop):
                if run and data != kind:
                    yield run, kind
                    run = 0
                run, kind = run + step, data
            position = stop
        if run:
            yield run, kind

    def _page_extents(self, position: int, end: int) -> Iterator[tuple[int, bool]]:
        """Yield (length, whether there is data) of the chunks of a range within one page, or one run of zeros."""
        first = position // self.chunk_size
        ids = self.page(first // PAGE_CHUNKS)
        if ids is None:
            yield end - position, False
            return
        at = first % PAGE_CHUNKS * fmt.ID_SIZE
        if ids.find(fmt.ZERO_ID, at, (-(-end // self.chunk_size) - first) * fmt.ID_SIZE + at) < 0:
            yield end - position, True
            return
        while position < end:
            stop = min(end, position - position % self.chunk_size + self.chunk_size)
            yield stop - position, ids[at : at + fmt.ID_SIZE] != fmt.ZERO_ID
            position = stop
            at += fmt.ID_SIZE

    # ------------------------------------------------------------------------------------------ reading
    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the disk from `offset`, zeros behind its end; raises Corrupt or IoFailed.

        Chunks are kept in the cache unless many of them are asked for at once: whoever does so goes through the disk.
        """
        kept = len(view) < PASSING_CHUNKS * self.chunk_size
        while view:
            length = min(len(view), self._stripe_size - offset % self._stripe_size)
            part = view[:length]
            puts = self._cache.puts
            missing = self._copy_cached(offset, part)
            if missing:
                with self._stripe(offset):
                    if puts != self._cache.puts:  # somebody else may just have loaded them
                        missing = self._copy_cached(offset, part)
                    self._load(missing, offset, part, kept=kept)
            offset += length
            view = view[length:]

    def read_cached(self, offset: int, view: memoryview) -> bool:
        """Fill `view` when that takes no reading from the store, and tell whether it did."""
        while view:
            length = min(len(view), WINDOW_SIZE - offset % WINDOW_SIZE)  # which is within one page
            page = offset // (self.chunk_size * PAGE_CHUNKS)
            if (page in self._page_ids and page not in self._pages) or self._copy_cached(offset, view[:length]):
                return False
            offset += length
            view = view[length:]
        return True

    def warm(self, offset: int, length: int) -> None:
        """Bring the chunks of a range into the cache; raises Corrupt or IoFailed."""
        end = min(offset + length, self.size)
        while offset < end:
            stop = min(end, offset - offset % self._stripe_size + self._stripe_size)
            numbers = range(offset // self.chunk_size, (stop - 1) // self.chunk_size + 1)
            if not all(map(self._is_at_hand, numbers)):
                with self._stripe(offset):
                    missing = [number for number in numbers if not self._is_at_hand(number)]
                    self._load(missing, offset, NOWHERE, kept=True)
            offset = stop

    def _stripe(self, offset: int) -> threading.Lock:
        return self._stripes[offset // self._stripe_size % STRIPES]

    def _is_at_hand(self, number: int) -> bool:
        id = self.chunk_id(number)
        return id == fmt.ZERO_ID or self._cache.has(id)

    def _copy_cached(self, offset: int, view: memoryview) -> list[int]:
        """Copy what is at hand of a range within one page, and return the numbers of the chunks that are not."""
        chunk_size, length = self.chunk_size, len(view)
        number, start = divmod(offset, chunk_size)
        ids = self.page(number // PAGE_CHUNKS)
        if ids is None:
            view[:] = bytes(length)
            return []
        missing = []
        at, place = 0, number % PAGE_CHUNKS * fmt.ID_SIZE
        while at < length:
            stop = min(length, at + chunk_size - start)
            id = ids[place : place + fmt.ID_SIZE]
            if id == fmt.ZERO_ID:
                view[at:stop] = bytes(stop - at)
            elif (chunk := self._cache.get(id)) is not None:
                view[at:stop] = chunk if stop - at == chunk_size else memoryview(chunk)[start : start + stop - at]
            else:
                missing.append(number)
            number, at, start, place = number + 1, stop, 0, place + fmt.ID_SIZE
        return missing

    def _load(self, numbers: list[int], offset: int, view: memoryview, *, kept: bool) -> None:
        """Load chunks of one window, copy what a range has of them, and keep them in the cache if they are to be."""
        if self._pool is not None:
            numbers = self._load_pooled(self._pool, numbers, offset, view, kept=kept)
        for first, count in neighbours(numbers):
            for left in reversed(range(TRIES)):
                places = self._places
                try:
                    self._load_neighbours(places, first, count, offset, view, kept=kept)
                    break
                except Corrupt:
                    if not left:
                        raise
                    self._look_again(places)

    def _load_pooled(self, pool: Pool, numbers: list[int], offset: int, view: memoryview, *, kept: bool) -> list[int]:
        """Do what ``_load`` does with the chunks that are in the pool, and return the numbers of the others."""
        chunk_size = self.chunk_size
        missing = []
        for number in numbers:
            id = self.chunk_id(number)
            chunk = pool.get(id)
            if chunk is None or len(chunk) != chunk_size:
                missing.append(number)
                continue
            if kept:
                self._cache.put(id, chunk)
            first = number * chunk_size
            start, stop = max(offset, first), min(offset + len(view), first + chunk_size)
            if start < stop:
                view[start - offset : stop - offset] = memoryview(chunk)[start - first : stop - first]
        return missing

    def _load_neighbours(
        self, places: Places, first: int, count: int, offset: int, view: memoryview, *, kept: bool
    ) -> None:
        chunk_size = self.chunk_size
        place = first % PAGE_CHUNKS * fmt.ID_SIZE
        ids = (self.page(first // PAGE_CHUNKS) or b"")[place : place + count * fmt.ID_SIZE]
        begin, end = first * chunk_size, (first + count) * chunk_size
        batch = places.index.locate(memoryview(ids), begin, chunk_size, self.size)
        plan = Plan(batch, WINDOW_SIZE, DECODED_SIZE_MAX)
        held = [(number, places.readers[number]) for number in plan.readers()]
        fds = array("i", [-1]) * (plan.reader_max + 1 or 1)
        for number, reader in held:
            descriptor = reader.fileno()
            fds[number] = -1 if descriptor is None else descriptor
        try:
            window = self._windows.pop()
        except IndexError:
            window = Window(WINDOW_SIZE, chunk_size, self._key)
        try:
            if not kept and offset <= begin and end <= min(offset + len(view), self.size):
                window.load_into(plan, fds, view[begin - offset : end - offset])
                self._verify(window, first, ids)
                return
            window.load(plan, 0, fds)
            self._verify(window, first, ids)
            plain = window.plain[begin - window.offset : end - window.offset]
            if kept:
                for number in range(count):
                    chunk = bytes(plain[number * chunk_size : (number + 1) * chunk_size])
                    self._cache.put(ids[number * fmt.ID_SIZE : (number + 1) * fmt.ID_SIZE], chunk)
            start, stop = max(offset, begin), min(offset + len(view), end)
            if start < stop:
                view[start - offset : stop - offset] = plain[start - begin : stop - begin]
        except LoadFailure as failure:
            name = places.readers[failure.reader].name
            raise Corrupt(f"{name} is damaged or unreadable at {failure.offset} (errno {failure.error})") from failure
        finally:
            self._windows.append(window)

    def _verify(self, window: Window, first: int, ids: bytes) -> None:
        """Raise Corrupt unless what was loaded from chunk number `first` on is what its ids say."""
        chunk_size = self.chunk_size
        start = first - window.offset // chunk_size
        count = len(ids) // fmt.ID_SIZE
        got = bytes(window.digests[start * fmt.ID_SIZE : (start + count) * fmt.ID_SIZE])
        if got != ids:
            wrong = next(i for i in range(count) if got[i * 32 : i * 32 + 32] != ids[i * 32 : i * 32 + 32])
            at = (first + wrong) * chunk_size
            raise Corrupt(f"the chunk at {at} of the disk's base does not match its id: its pack is damaged")

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
