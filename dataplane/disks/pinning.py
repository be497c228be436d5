"""The pins of a disk: what keeps its base alive in the store, and how they follow the disk from one root to the next.

A disk whose state names root R is pinned by its owner's name, or, for as long as it takes to move from one root to the
next, by that name with ``/next`` behind it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dataplane.disks.folder import create_overlay, delete_overlay, read_state
from dataplane.disks.format import DiskState
from dataplane.errors import Corrupt, NotFound, UsageError
from dataplane.limits import SECTOR_SIZE
from dataplane.store.sql import SqlConnection
from dataplane.store.store import Store

NEXT = "/next"


def create_disk(
    store: Store, path: str | os.PathLike[str], *, image: str | None = None, size: int | None = None, owner: str = ""
) -> DiskState:
    """Make a disk in the new folder `path`, over image `image` of the store or empty, and pin what it is made of; O(1).

    `size` is that of the image, rounded up to 512 bytes, unless given. `owner` is what to call the pin: ``disk:ID``
    unless given. Raises NotFound, AlreadyExists, UsageError (also when the disk would be smaller than the image),
    NoSpace or IoFailed, and leaves nothing.
    """
    if image is None:
        return create_overlay(path, size=size or 0, owner=owner)
    owner = owner or f"disk:{os.urandom(8).hex()}"
    pin = store.pin(image)
    least = -(-pin.virtual_size // SECTOR_SIZE) * SECTOR_SIZE
    store.pin_also(image, owner)  # first: a crash leaves a pin too many, never a disk whose base may go
    try:
        return create_overlay(
            path,
            size=least if size is None else size,
            base_root=store.pin(owner).root,
            base_size=pin.virtual_size,
            domain=pin.domain,
            owner=owner,
            origin=image,
        )
    except BaseException:
        store.unpin(owner)
        raise


def check_origin(store: Store, state: DiskState, image: str, path: str | os.PathLike[str]) -> None:
    """Raise UsageError unless a disk was made of image `image`: under that name, or of what has that name now."""
    if state.origin == image:
        return
    root = store.pin(image).root.hex() if store.ledger.has_pin(image) else None
    if root is None or root != state.origin_root:
        made_of = f"image {state.origin!r}" if state.origin else "nothing"
        raise UsageError(f"disk {path} was made of {made_of}, not of {image!r}: name that, or another overlay")


def delete_disk(store: Store, path: str | os.PathLike[str]) -> None:
    """Remove a disk and its pins; nothing to do when there is none. Raises StoreLocked when it is open, or IoFailed."""
    try:
        state = read_state(Path(path))
    except NotFound:
        return
    delete_overlay(path)
    release_pins(store, state.owner)


def release_pins(store: Store, owner: str, *, connection: Any = None) -> None:
    """Remove the pins of a disk that is gone; with `connection` as part of the caller's open transaction."""
    with store.ledger.transaction(connection) as transaction:
        drop_pin(transaction, owner)
        drop_pin(transaction, owner + NEXT)


def settle_pins(store: Store, owner: str, base_root: bytes | None) -> None:
    """Let the owner's pin name the root that its disk's state names, whatever a crash has left.

    Nobody else does so at the same time. Raises Corrupt when no pin keeps that root.
    """
    ledger = store.ledger
    if base_root is None:
        if ledger.has_pin(owner + NEXT):
            with ledger.transaction() as transaction:
                drop_pin(transaction, owner + NEXT)
        return
    roots = {name: store.pin(name).root for name in (owner, owner + NEXT) if ledger.has_pin(name)}
    if roots == {owner: base_root}:
        return
    with ledger.transaction() as transaction:
        if roots.get(owner + NEXT) == base_root:
            drop_pin(transaction, owner)
            ledger.copy_pin(transaction, owner + NEXT, owner)
        elif roots.get(owner) != base_root:
            other = next((pin.name for pin in store.pins() if pin.root == base_root), None)
            if other is None:
                raise Corrupt(
                    f"no image keeps root {base_root.hex()} of disk {owner}: restore the ledger from a backup"
                )
            drop_pin(transaction, owner)
            ledger.copy_pin(transaction, other, owner)
        drop_pin(transaction, owner + NEXT)


def drop_pin(transaction: SqlConnection, name: str) -> None:
    """Remove a pin if it is there, inside a transaction."""
    transaction.execute("DELETE FROM pins WHERE name = ?", (name,))
