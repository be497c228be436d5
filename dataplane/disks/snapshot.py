"""Snapshots: a disk as it was at a moment becomes a root of the store, and the disk goes on over that root.

1. The disk is frozen: its layer is sealed, writes go to a new one.
2. The sealed layer and the base are merged: packs and runs become durable.
3. One ledger transaction names them and pins the new root for the snapshot, and for the disk under ``OWNER/next``.
4. The disk's state names the new root, the sealed layer goes, and the disk's own pin moves to the new root.

A crash before 3 leaves a sealed layer, which the next snapshot merges; after 3 a pin too many, which settling removes.
In every state all that was written is in the layers or in the root that the disk's state names, which is pinned.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dataplane.dataclass import dataclass
from dataplane.disks.control import Freezable, OwnerGone, attached, tries
from dataplane.disks.disk import Disk, Frozen
from dataplane.disks.merging import FORMAT, prepare_merge
from dataplane.disks.pinning import NEXT, drop_pin, settle_pins
from dataplane.errors import AlreadyExists, DataplaneError, StoreLocked
from dataplane.ingest.accounting import Sizes
from dataplane.ingest.importing import PreparedImport, check_name
from dataplane.ingest.progress import Progress
from dataplane.store.pins import Pin
from dataplane.store.store import Store

ROUNDS = 8
"""Unfinished snapshots that a new one merges first; there is never more than one, unless others keep dying."""


class PreparedSnapshot:
    """A disk as it was when it was frozen, all of it durable in the store: only the pin is missing.

    `sizes` are those of the image; `bytes_read` counts the chunks that were read anew, `bytes_written` what the store
    grew by.
    """

    format = FORMAT

    def __init__(self, store: Store, frozen: Frozen, made: PreparedImport | None, unchanged: Pin | None) -> None:
        self._store = store
        self._owner = frozen.owner
        self._made = made
        if made is not None:
            self.root, self.sizes = made.root, made.sizes
            self.bytes_read, self.bytes_written = made.bytes_read, made.bytes_written
        elif unchanged is not None:
            self.root, self.sizes = unchanged.root, sizes_of(unchanged, store)
            self.bytes_read = self.bytes_written = 0

    def pin(self, name: str, *, connection: Any = None) -> None:
        """Pin the snapshot for `name`, as an image of the store; raises AlreadyExists or LeaseLost.

        With `connection`, a driver's connection to the ledger's database whose transaction is open, all this happens
        when the caller commits, which must be before the block of ``prepare_snapshot`` ends.
        """
        ledger = self._store.ledger
        with ledger.transaction(connection) as transaction:
            if self._made is None:
                ledger.copy_pin(transaction, self._owner, name)
                return
            drop_pin(transaction, self._owner + NEXT)  # of a snapshot whose owner was killed
            self._made.pin_within(transaction, name)
            if name != self._owner + NEXT:
                ledger.copy_pin(transaction, name, self._owner + NEXT)


@contextmanager
def prepare_snapshot(
    store: Store,
    disk: Disk | str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> Iterator[PreparedSnapshot]:
    """Give what a disk holds at a moment within this call, durable in the store, for the caller to pin.

    `disk` is one that is open here, or the folder of one that is open elsewhere or nowhere; writes to it go on. When
    the block ends without an error after ``pin`` was committed, the disk goes on over the new root; otherwise it goes
    on as it is, and the next snapshot merges what this one did not. Raises Cancelled, NotFound, StoreLocked (the
    disk's owner takes no requests, or one after the other goes), Corrupt, NoSpace or IoFailed.
    """
    if isinstance(disk, Disk):
        with _prepared(store, disk, threads, progress, cancelled) as prepared:
            yield prepared
        return
    for is_last in tries():
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(attached(store, disk))
            try:
                prepared = stack.enter_context(_prepared(store, found, threads, progress, cancelled))
            except OwnerGone:  # killed while it froze, or closed: the disk is asked of whoever has it now
                if is_last:
                    raise
                continue
            yield prepared
            return


@contextmanager
def _prepared(
    store: Store,
    disk: Freezable,
    threads: int | None,
    progress: Progress | None,
    cancelled: threading.Event | None,
) -> Iterator[PreparedSnapshot]:
    for _ in range(ROUNDS):
        with _merged(store, disk, threads, progress, cancelled) as (frozen, prepared):
            if frozen.fresh:
                yield prepared
                return
            prepared.pin(frozen.owner + NEXT)
    raise StoreLocked(f"disk {disk.folder}: snapshots by others keep being left unfinished: try again")


@contextmanager
def _merged(
    store: Store,
    disk: Freezable,
    threads: int | None,
    progress: Progress | None,
    cancelled: threading.Event | None,
) -> Iterator[tuple[Frozen, PreparedSnapshot]]:
    """Freeze and merge; when the block is through, move the disk over if the new root was pinned."""
    frozen = disk.freeze()
    moved = False
    try:
        if frozen.layer is None:
            yield frozen, PreparedSnapshot(store, frozen, None, store.pin(frozen.owner))
            return
        with prepare_merge(store, disk.folder, frozen, threads=threads, progress=progress, cancelled=cancelled) as made:
            yield frozen, PreparedSnapshot(store, frozen, made, None)
            following = frozen.owner + NEXT
            if store.ledger.has_pin(following) and store.pin(following).root == made.root:
                moved = True
                # The snapshot is there. A disk that does not move goes on as it is: the next one has more to merge.
                with contextlib.suppress(DataplaneError):
                    disk.rebase(frozen, made.root)
                    settle_pins(store, frozen.owner, made.root)
    finally:
        if not moved:
            disk.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotResult:
    """What a snapshot is and took. `bytes_read` counts chunks read anew, `bytes_written` what the store grew by."""

    name: str
    root: bytes
    sizes: Sizes
    bytes_read: int
    bytes_written: int


def snapshot_disk(
    store: Store,
    disk: Disk | str | os.PathLike[str],
    *,
    name: str,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> SnapshotResult:
    """Store what a disk holds at a moment as image `name`; raises AlreadyExists, and as ``prepare_snapshot`` does."""
    check_name(name)
    if store.ledger.has_pin(name):
        raise AlreadyExists(f"an image named {name!r} is already in the store: choose another name")
    with prepare_snapshot(store, disk, threads=threads, progress=progress, cancelled=cancelled) as prepared:
        prepared.pin(name)
        return SnapshotResult(
            name=name,
            root=prepared.root,
            sizes=prepared.sizes,
            bytes_read=prepared.bytes_read,
            bytes_written=prepared.bytes_written,
        )


def sizes_of(pin: Pin, store: Store) -> Sizes:
    """Return the sizes that a pin tells."""
    return Sizes(
        virtual_size=pin.virtual_size,
        data_size=pin.data_size,
        storage_size=pin.storage_size,
        allocated_size=pin.allocated_size,
        chunk_size=store.chunk_size,
        codec=str(store.codec),
        chunks=pin.chunks,
        distinct_chunks=pin.distinct_chunks,
    )
