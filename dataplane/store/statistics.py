"""Sizes that depend on what else a store holds: from the counts in the ledger, or counted anew from manifests."""

from __future__ import annotations

from collections import Counter

from dataplane.dataclass import dataclass
from dataplane.errors import IoFailed, NoSpace
from dataplane.store.counted_roots import (
    COUNTS_VERSION,
    SELECT_COUNTED,
    SELECT_TOTALS,
    checked_counted,
    checked_totals,
    counted_roots,
    pending,
)
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
    """Return how image `name` shares the store. Raises NotFound, or Corrupt when its manifest or counts are damaged.

    Takes time only for images that came or went since anybody asked; see ``dataplane.store.counting``.
    """
    pin = store.pin(name)
    if not counted(store):
        return recounted(store, pin)
    rows = store.ledger.query(f"{SELECT_COUNTED} WHERE root = ? AND domain = ?", (pin.root.hex(), pin.domain))
    if not rows:
        return recounted(store, pin)
    counted_root = checked_counted(rows[0], store.ledger.name)
    names = sum((other.root, other.domain) == (pin.root, pin.domain) for other in store.pins())
    unique = counted_root.unique_size if names == 1 else 0
    return ImageSizes(unique_size=unique, shared_size=pin.storage_size - unique)


def store_sizes(store: Store) -> StoreSizes:
    """Return the sizes of the whole store. Raises Corrupt when counts, or manifests that must be read, are damaged.

    Takes time only for images that came or went since anybody asked; see ``dataplane.store.counting``.
    """
    if not counted(store):
        from dataplane.store.recounting import recount_store

        return recount_store(store)
    totals = checked_totals(store.ledger.query(SELECT_TOTALS), store.ledger.name)
    names = Counter((pin.root, pin.domain) for pin in store.pins())
    roots = {(counted.root, counted.domain): counted.unique_size for counted in counted_roots(store)}
    return whole(
        store,
        live_size=totals.size,
        live_chunks=totals.chunks,
        unique_size=sum(size for root, size in roots.items() if names[root] == 1),
        damaged_images=len(names.keys() - roots.keys()),
    )


def whole(store: Store, *, live_size: int, live_chunks: int, unique_size: int, damaged_images: int) -> StoreSizes:
    """Return the sizes of a store given those that depend on who uses what."""
    pins = store.pins()
    ((packs, physical_size),) = store.ledger.query("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM packs")
    return StoreSizes(
        images=len(pins),
        virtual_size=sum(pin.virtual_size for pin in pins),
        data_size=sum(pin.data_size for pin in pins),
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
    if store.ledger.schema_version < COUNTS_VERSION:
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
