"""Marking: which chunks are alive, and how much of each pack they are."""

from __future__ import annotations

from collections.abc import Collection

from dataplane.dataclass import dataclass
from dataplane.engine.scan import DIGEST_SIZE, ChunkState
from dataplane.engine.table import DigestTable
from dataplane.store.recounting import add_chunks
from dataplane.store.runs import Index
from dataplane.store.store import Store
from dataplane.upkeep.pack_contents import Columns, table_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class PackUse:
    """How a pack is used. `alive` has one byte a chunk, in table order; sizes are stored lengths in bytes."""

    pack: bytes
    alive: bytes
    alive_size: int
    size: int


def mark(store: Store) -> tuple[Index, DigestTable]:
    """Return the index and the ids of everything that a pin, a removed pin, a reader's lease or a checkpoint keeps
    alive.

    Whoever calls has made sure that writers who began before what it will delete was condemned are done: their pins are
    among those read here. Raises Corrupt when a manifest cannot be read: nothing may be deleted then.
    """
    roots = store.ledger.roots()
    index = store.index()
    alive = DigestTable(DIGEST_SIZE)
    lost = store.ledger.lost_chunks()
    for root, domain in sorted(roots):
        add_image(store, index, root, domain, alive, lost)
    return index, alive


def add_image(
    store: Store, index: Index, root: bytes, domain: str, table: DigestTable, lost: Collection[bytes] = ()
) -> None:
    """Add everything that an image is made of to `table`: its chunks, manifest pages and root. See ``add_chunks``."""
    add_chunks(store, index, root, domain, table, lost)
    for id in (root, *(page for _, page in store.read_root(index, root, domain).pages)):
        table.claim(id, bytearray([ChunkState.DATA]))


def use_of(store: Store, index: Index, alive: DigestTable, pack: bytes) -> PackUse:
    """Return how much of a pack is alive. A chunk that several packs hold is alive in the one where look-ups find it.

    Raises Corrupt when the pack's table cannot be read.
    """
    columns: Columns = table_columns(store, pack)
    ids, _, stored, _ = columns
    flags = index.resolve(ids, alive, pack)
    return PackUse(
        pack=pack,
        alive=flags,
        alive_size=sum(length for length, flag in zip(stored, flags, strict=True) if flag),
        size=sum(stored),
    )
