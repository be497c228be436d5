"""Sizes that depend on what else a store holds: from the counts in the ledger, or counted anew from manifests."""

from __future__ import annotations

from dataplane.dataclass import dataclass
from dataplane.errors import IoFailed, NoSpace
from dataplane.store.counted_roots import pending
from dataplane.store.pins import Pin
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
        return recounted(store, pin)
    rows = store.ledger.query(
        "SELECT unique_size, (SELECT COUNT(*) FROM pins WHERE pins.root = counted_roots.root"
        " AND pins.domain = counted_roots.domain) FROM counted_roots WHERE root = ? AND domain = ?",
        (pin.root.hex(), pin.domain),
    )
    if not rows:
        return recounted(store, pin)
    unique, pins = (int(str(value)) for value in rows[0])
    unique = unique if pins == 1 else 0
    return ImageSizes(unique_size=unique, shared_size=pin.storage_size - unique)


def store_sizes(store: Store) -> StoreSizes:
    """Return the sizes of the whole store; raises Corrupt when they must be recounted and a manifest is damaged.

    Takes time only for images that came or went since anybody asked; see ``dataplane.store.counting``.
    """
    if not counted(store):
        from dataplane.store.recounting import recount_store

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
    if store.ledger.schema_version < 2:
        return False
    if not any(pending(store)):
        return True
    from dataplane.store.counting import update_counts  # native code, which a stat without work need not load

    try:
        return update_counts(store)
    except (IoFailed, NoSpace):
        return False


def recounted(store: Store, pin: Pin) -> ImageSizes:
    """Return the sizes of an image as all manifests have them. Raises Corrupt."""
    from dataplane.store.recounting import recount_image

    return recount_image(store, pin)
