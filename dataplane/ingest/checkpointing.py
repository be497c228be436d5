"""Checkpointing: now and then what an import has done so far is published, so that a restart can go on from there."""

from __future__ import annotations

import contextlib
import threading
import time

from dataplane.dataclass import replace
from dataplane.errors import Corrupt, IoFailed, LeaseLost, NoSpace, SourceUnavailable, StoreLocked
from dataplane.ingest.done import Done
from dataplane.ingest.progress import Progress
from dataplane.ingest.publication import Publication
from dataplane.ingest.resuming import done_so_far
from dataplane.limits import MIB
from dataplane.store.checkpoints import Checkpoint, checkpoints, drop_checkpoint, save_checkpoint, take_checkpoint
from dataplane.store.lease import Lease, drop_dead_leases
from dataplane.store.pack import Cut, PackSet
from dataplane.store.store import Store

INTERVAL_SIZE = 256 * MIB
INTERVAL_S = 30.0
"""A checkpoint is made when so many bytes of the source have been read since the last one, or so much time went by."""

INTERVAL_MIN_S = 3.0
"""None is made sooner: on a local disk reading again is as fast as what it saves."""

SHARE = 1 / 16
"""None is made before so much more than at the last one has been done: the number of runs grows with the logarithm."""

MAY_PASS = (SourceUnavailable, NoSpace, IoFailed, StoreLocked, LeaseLost)
"""Failures after which the same import may be started again and succeed. A pre-signed URL that has expired is one."""


class Checkpointing:
    """The checkpoints of one import; a Keeper. ``keep`` only cuts the packs, a thread of its own makes them durable."""

    def __init__(
        self, store: Store, lease: Lease, packs: PackSet, publication: Publication, base: Checkpoint, progress: Progress
    ) -> None:
        """`base` says whose checkpoints these are; its root and position do not count."""
        self._store = store
        self._lease = lease
        self._packs = packs
        self._publication = publication
        self._base = base
        self._progress = progress
        self._started = self._last = time.monotonic()
        self._last_bytes = 0
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def is_due(self) -> bool:
        """Tell whether enough has been done since the last checkpoint, which must be through."""
        elapsed = time.monotonic() - self._last
        if elapsed < max(INTERVAL_MIN_S, SHARE * (self._last - self._started)):
            return False
        if elapsed < INTERVAL_S and self._progress.read_bytes - self._last_bytes < INTERVAL_SIZE:
            return False
        return self._thread is None or not self._thread.is_alive()

    def keep(self, position: int, root: bytes, storage_size: int) -> None:
        """Begin to publish everything appended so far. Raises what was wrong the last time."""
        self.finish()
        self._last, self._last_bytes = time.monotonic(), self._progress.read_bytes
        self._thread = threading.Thread(
            target=self._save,
            args=(self._packs.cut(), position, root, storage_size),
            name="checkpointing",
            daemon=True,
        )
        self._thread.start()

    def finish(self) -> None:
        """Wait for the last checkpoint; raises NoSpace, IoFailed, Corrupt, StoreLocked or LeaseLost when it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            raise self._failure

    def _save(self, cut: Cut, position: int, root: bytes, storage_size: int) -> None:
        try:
            self._publication.publish(cut.packs())
            checkpoint = replace(
                self._base, root=root, position=position, saved_at=time.time_ns() // 1000, storage_size=storage_size
            )
            with self._store.ledger.transaction() as connection:
                self._publication.name(connection)
                save_checkpoint(connection, checkpoint)
            self._publication.settle()
        except Exception as error:  # raised again in the thread that imports
            self._failure = error


def take_over(store: Store, lease: Lease, *, owner: str, source: bytes, domain: str, virtual_size: int) -> Done:
    """Return what an interrupted import of the same source has done, which `lease` now keeps alive; nothing is fine.

    A checkpoint that cannot be read any more is left behind.
    """
    if not checkpoints(store.ledger):
        return Done()
    drop_dead_leases(store.layout, store.ledger)
    checkpoint = take_checkpoint(store.ledger, lease, owner=owner, source=source, domain=domain)
    if checkpoint is None:
        return Done()
    try:
        return done_so_far(store, checkpoint, virtual_size)
    except Corrupt:
        with store.ledger.transaction() as connection:
            drop_checkpoint(connection, lease.id)
        return Done()


def leave(store: Store, lease: Lease, *, kept: bool) -> None:
    """End an import that has not been pinned: its checkpoint stays for a restart when `kept`, and goes otherwise."""
    if not kept:
        # Should it resist, it is forgotten like one that nobody comes back for.
        with contextlib.suppress(Exception), store.ledger.transaction() as connection:
            drop_checkpoint(connection, lease.id)
