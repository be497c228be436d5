"""Sizes that depend on other images, counted from all manifests: where counts cannot be kept, and what tests trust."""

from __future__ import annotations

from collections.abc import Collection

from dataplane.engine.scan import DIGEST_SIZE, ChunkState
from dataplane.engine.table import DigestTable
from dataplane.store.manifest import data_states
from dataplane.store.pins import Pin
from dataplane.store.runs import Index
from dataplane.store.statistics import ImageSizes, StoreSizes, whole
from dataplane.store.store import Store


def recount_image(store: Store, pin: Pin) -> ImageSizes:
    """Return an image's sizes from the manifests of all images. Raises Corrupt."""
    index = store.index()
    others = DigestTable(DIGEST_SIZE)
    for root, domain in roots([other for other in store.pins() if other.name != pin.name]):
        add_chunks(store, index, root, domain, others)
    total = add_chunks(store, index, pin.root, pin.domain, DigestTable(DIGEST_SIZE))
    unique = add_chunks(store, index, pin.root, pin.domain, others)
    return ImageSizes(unique_size=unique, shared_size=total - unique)


def recount_store(store: Store) -> StoreSizes:
    """Return the sizes of the whole store from the manifests of all images. Raises Corrupt."""
    index = store.index()
    table = DigestTable(DIGEST_SIZE)
    live = sum(add_chunks(store, index, root, domain, table) for root, domain in roots(store.pins()))
    unique = sum(recount_image(store, pin).unique_size for pin in store.pins())
    return whole(store, live_size=live, live_chunks=len(table), unique_size=unique, damaged_images=0)


def roots(pins: list[Pin]) -> set[tuple[bytes, str]]:
    """Return the distinct (root, domain) that pins keep."""
    return {(pin.root, pin.domain) for pin in pins}


def add_chunks(
    store: Store, index: Index, root: bytes, domain: str, table: DigestTable, lost: Collection[bytes] = ()
) -> int:
    """Add an image's data chunks to `table`; return the stored bytes of those that were not in it.

    Raises Corrupt when the manifest cannot be read, or a chunk that is not in `lost` is in no run.
    """
    stored_bytes = 0
    for _, page in store.read_pages(index, store.read_root(index, root, domain)):
        states = data_states(page)
        fresh = table.claim(page, states)
        if fresh:
            found, size = index.mark_stored(memoryview(page), memoryview(states))
            stored_bytes += size
            if found != fresh:
                for place, state in enumerate(states):
                    chunk = page[place * DIGEST_SIZE : (place + 1) * DIGEST_SIZE]
                    if state == ChunkState.NEW and chunk not in lost:
                        index.require(chunk)
    return stored_bytes
