"""Manifests: which chunk ids make up an image, as pages under a root."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dataplane.engine.scan import ChunkState, is_zero
from dataplane.limits import PAGE_CHUNKS
from dataplane.store import format as fmt


class ManifestBuilder:
    """Collects the ids of an image window by window, in any order, and stores each page as soon as it is whole.

    `claim` is called in disk order before the work on a window begins, `fill` when its ids are known: a page is whole
    when claiming has moved past it and every window claimed in it is filled. The caller serialises the two.
    """

    def __init__(self, chunk_size: int, store_page: Callable[[bytes], bytes]) -> None:
        self._page_span = chunk_size * PAGE_CHUNKS
        self._chunk_size = chunk_size
        self._store_page = store_page
        self._open: dict[int, bytearray] = {}
        self._waiting: dict[int, int] = {}
        self._claimed_page = -1
        self._pages: dict[int, bytes] = {}

    def claim(self, offset: int) -> None:
        """Note that the window at `offset` of the disk will be filled; no later claim lies before it."""
        self._claimed_page = offset // self._page_span
        self._waiting[self._claimed_page] = self._waiting.get(self._claimed_page, 0) + 1

    def fill(self, offset: int, ids: memoryview) -> list[int]:
        """Take the ids of a window (32 bytes each, zeros for a zero chunk); return the pages to pass to `store` now."""
        number, inside = divmod(offset, self._page_span)
        page = self._open.setdefault(number, bytearray(fmt.PAGE_SIZE))
        start = inside // self._chunk_size * fmt.ID_SIZE
        page[start : start + len(ids)] = ids
        self._waiting[number] -= 1
        return [done for done in list(self._open) if done < self._claimed_page and self._waiting[done] == 0]

    def take(self, number: int) -> bytes | None:
        """Return a page that is whole, once; None when another thread has taken it."""
        page = self._open.pop(number, None)
        self._waiting.pop(number, None)
        return None if page is None else bytes(page)

    def store(self, number: int, page: bytes) -> None:
        """Store a page that was taken; an all-zero page costs nothing."""
        if not is_zero(page):
            self._pages[number] = self._store_page(page)

    def restore(self, pages: Mapping[int, bytes], open_page: tuple[int, bytes] | None) -> None:
        """Begin where an earlier import was: with pages that are stored (ids by number), and one that is not whole."""
        self._pages.update(pages)
        if open_page is not None:
            number, page = open_page
            self._open[number] = bytearray(page)
            self._waiting[number] = 0

    def so_far(self, virtual_size: int, domain: str) -> fmt.Root:
        """Return the root of what is filled, pages that are not whole included; nobody claims or fills meanwhile."""
        pages = dict(self._pages)
        for number, page in self._open.items():
            if not is_zero(page):
                pages[number] = self._store_page(bytes(page))
        return self._root(pages, virtual_size, domain, unfinished=True)

    def finish(self, virtual_size: int, domain: str) -> fmt.Root:
        """Store the pages that are left and return the root."""
        for number in list(self._open):
            page = self.take(number)
            if page is not None:
                self.store(number, page)
        return self._root(self._pages, virtual_size, domain)

    def _root(
        self, pages: Mapping[int, bytes], virtual_size: int, domain: str, *, unfinished: bool = False
    ) -> fmt.Root:
        return fmt.Root(
            virtual_size=virtual_size,
            chunk_size=self._chunk_size,
            domain=domain,
            pages=tuple(sorted(pages.items())),
            unfinished=unfinished,
        )


def data_states(page: bytes) -> bytearray:
    """Return a ChunkState for each id of a page: ABSENT for zeros, DATA otherwise."""
    return bytearray(
        ChunkState.ABSENT if page[at : at + fmt.ID_SIZE] == fmt.ZERO_ID else ChunkState.DATA
        for at in range(0, len(page), fmt.ID_SIZE)
    )
