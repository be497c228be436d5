"""Sizes that depend on what else a store holds: from the counts in the ledger, or counted anew from manifests."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dataplane.engine.scan import DIGEST_SIZE, ChunkState
from dataplane.engine.table import DigestTable
from dataplane.errors import IoFailed, NoSpace
from dataplane.store.counting import pending, update_counts
from dataplane.store.ledger import Pin
from dataplane.store.manifest import data_states
from dataplane.store.runs import Index
from dataplane.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSizes:
    """How an image shares a store with others, in bytes: `unique_size` + `shared_size` = its storage_size.

    `unique_size` is what no other pinned image uses: what removing the image would free.
    """

    unique_size: int
    shared_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSizes:
    """A store as a whole. `live_size` is the stored length of chunks that some image uses; sizes in bytes.

    `unique_size` is the part of it that only one image uses. `physical_size` is what packs occupy, `virtual_size` and
    `data_size` are sums over images. `damaged_images` could not be counted: see verify.
    """

    images: int
    virtual_size: int
    data_size: int
    live_size: int
    live_chunks: int
    unique_size: int
    physical_size: int
    packs: int
    indexed_chunks: int
    damaged_images: int


def image_sizes(store: Store, name: str) -> ImageSizes:
    """Return how image `name` shares the store. Raises NotFound, or Corrupt when its own manifest is damaged.

    Takes time only for images that came or went since anybody asked; see ``dataplane.store.counting``.
    """
    pin = store.pin(name)
    if not counted(store):
        return recount_image(store, pin)
    rows = store.ledger.query(
        "SELECT unique_size, (SELECT COUNT(*) FROM pins WHERE pins.root = counted_roots.root"
        " AND pins.domain = counted_roots.domain) FROM counted_roots WHERE root = ? AND domain = ?",
        (pin.root.hex(), pin.domain),
    )
    if not rows:
        return recount_image(store, pin)
    unique, pins = (int(str(value)) for value in rows[0])
    unique = unique if pins == 1 else 0
    return ImageSizes(unique_size=unique, shared_size=pin.storage_size - unique)


def store_sizes(store: Store) -> StoreSizes:
    """Return the sizes of the whole store; raises Corrupt when they must be recounted and a manifest is damaged.

    Takes time only for images that came or went since anybody asked; see ``dataplane.store.counting``.
    """
    if not counted(store):
        return recount_store(store)
    query = store.ledger.query
    meta = {str(name): int(str(value)) for name, value in query(
        "SELECT name, value FROM ledger_meta WHERE name IN ('counted_size', 'counted_chunks')"
    )}  # fmt: skip
    ((unique,),) = query(
        "SELECT COALESCE(SUM(unique_size), 0) FROM counted_roots JOIN (SELECT root, domain FROM pins"
        " GROUP BY root, domain HAVING COUNT(*) = 1) AS single USING (root, domain)"
    )
    joining, _ = pending(store)
    return whole(
        store,
        live_size=meta.get("counted_size", 0),
        live_chunks=meta.get("counted_chunks", 0),
        unique_size=int(str(unique)),
        damaged_images=len(joining),
    )


def whole(store: Store, *, live_size: int, live_chunks: int, unique_size: int, damaged_images: int) -> StoreSizes:
    """Return the sizes of a store given those that depend on who uses what."""
    query = store.ledger.query
    ((images, virtual_size, data_size),) = query(
        "SELECT COUNT(*), COALESCE(SUM(virtual_size), 0), COALESCE(SUM(data_size), 0) FROM pins"
    )
    ((packs, physical_size),) = query("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM packs")
    return StoreSizes(
        images=int(str(images)),
        virtual_size=int(str(virtual_size)),
        data_size=int(str(data_size)),
        live_size=live_size,
        live_chunks=live_chunks,
        unique_size=unique_size,
        physical_size=int(str(physical_size)),
        packs=int(str(packs)),
        indexed_chunks=sum(store.ledger.run_sizes().values()),
        damaged_images=damaged_images,
    )


def counted(store: Store) -> bool:
    """Bring the counts up to date; False where the store cannot be written and they are not."""
    try:
        return update_counts(store)
    except (IoFailed, NoSpace):
        return False


# ---------------------------------------------------------------------------------------------- from the manifests
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
