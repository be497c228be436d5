"""Sizes that depend on what else a store holds, counted from manifests."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.engine.scan import DIGEST_SIZE, ChunkState
from dataplane.engine.table import DigestTable
from dataplane.store.manifest import data_states
from dataplane.store.pins import Pin
from dataplane.store.runs import Index
from dataplane.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSizes:
    """How an image shares a store with others, in bytes: `unique_size` + `shared_size` = its storage_size.

    `unique_size` is what no other pinned root uses: what removing the image would free.
    """

    unique_size: int
    shared_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSizes:
    """A store as a whole. `live_size` is the stored length of chunks that some image uses; sizes in bytes.

    `physical_size` is what packs occupy, `virtual_size` and `data_size` are sums over images.
    """

    images: int
    virtual_size: int
    data_size: int
    live_size: int
    live_chunks: int
    physical_size: int
    packs: int
    indexed_chunks: int


def image_sizes(store: Store, name: str) -> ImageSizes:
    """Return how image `name` shares the store; reads the manifests of all images. Raises NotFound or Corrupt."""
    pin = store.pin(name)
    index = store.index()
    others = DigestTable(DIGEST_SIZE)
    for root, domain in {(other.root, other.domain) for other in store.pins() if other.name != name}:
        add_chunks(store, index, root, domain, others)
    total = add_chunks(store, index, pin.root, pin.domain, DigestTable(DIGEST_SIZE))
    unique = add_chunks(store, index, pin.root, pin.domain, others)
    return ImageSizes(unique_size=unique, shared_size=total - unique)


def store_sizes(store: Store) -> StoreSizes:
    """Return the sizes of the whole store; reads the manifests of all images. Raises Corrupt."""
    index = store.index()
    pins = store.pins()
    table = DigestTable(DIGEST_SIZE)
    live = sum(add_chunks(store, index, root, domain, table) for root, domain in roots(pins))
    packs = store.ledger.packs()
    return StoreSizes(
        images=len(pins),
        virtual_size=sum(pin.virtual_size for pin in pins),
        data_size=sum(pin.data_size for pin in pins),
        live_size=live,
        live_chunks=len(table),
        physical_size=sum(packs.values()),
        packs=len(packs),
        indexed_chunks=len(index),
    )


def roots(pins: list[Pin]) -> set[tuple[bytes, str]]:
    """Return the distinct (root, domain) that pins keep."""
    return {(pin.root, pin.domain) for pin in pins}


def add_chunks(store: Store, index: Index, root: bytes, domain: str, table: DigestTable) -> int:
    """Add an image's data chunks to `table`; return the stored bytes of those that were not in it."""
    stored_bytes = 0
    for _, page in store.read_pages(index, store.read_root(index, root, domain)):
        states = data_states(page)
        fresh = table.claim(page, states)
        if fresh:
            found, size = index.mark_stored(memoryview(page), memoryview(states))
            stored_bytes += size
            if found != fresh:
                lost = states.index(ChunkState.NEW)
                chunk = page[lost * DIGEST_SIZE : (lost + 1) * DIGEST_SIZE]
                index.require(chunk)
    return stored_bytes
