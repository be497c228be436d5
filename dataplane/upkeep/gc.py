"""Garbage collection: what nobody names is condemned, looked at again after a while, and only then deleted.

A pack is condemned at an epoch. Work that began before that epoch may still come to rely on the pack, and holds a lease
that says so; work that began later uses condemned packs only for what no other pack holds. So once those older leases
are gone, and a second look at all roots finds the pack unused, nothing can need it any more. Clocks only add a grace
period; safety does not rest on them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dataplane.dataclass import dataclass
from dataplane.errors import Corrupt, NoSpace, StoreLocked
from dataplane.store.checkpoints import expired_checkpoints, forget_expired
from dataplane.store.counting import catch_up
from dataplane.store.layout import naming
from dataplane.store.lease import Lease, LeaseRow, drop_dead_leases, give_up, lease_rows
from dataplane.store.merging import MERGED_ENTRIES_MAX, arranging_runs, merge_runs
from dataplane.store.store import Store
from dataplane.store.workspace import open_lock
from dataplane.upkeep.deleting import delete_packs, remove_orphans
from dataplane.upkeep.marking import PackUse, mark, use_of
from dataplane.upkeep.rewriting import rewrite

GRACE_S = 3600.0
UNDELETE_S = 7 * 86400.0
CHECKPOINT_S = 86400.0
FENCE_S = 60.0
"""A process that holds a lease and does not count a beat for this long is given up."""

POLL_S = 1.0
REWRITE_SHARE = 0.5
"""A pack of which less than this is alive is written anew."""


@dataclass(slots=True, kw_only=True)
class GcReport:
    """What a collection did, or with a dry run would do. Sizes in bytes of pack files."""

    dry_run: bool
    condemned_packs: int = 0
    condemned_size: int = 0
    rewritten_packs: int = 0
    revived_packs: int = 0
    deleted_packs: int = 0
    deleted_size: int = 0
    waiting_packs: int = 0
    """Condemned, but within the grace period or possibly needed by work that began before."""
    merged_runs: int = 0
    forgotten_images: int = 0
    forgotten_checkpoints: int = 0
    removed_orphans: int = 0
    fenced_leases: int = 0
    damaged_packs: int = 0
    """Left alone, because their own tables cannot be read: see verify."""
    seconds: float = 0.0


def collect(
    store: Store,
    *,
    dry_run: bool = False,
    grace_s: float = GRACE_S,
    undelete_s: float = UNDELETE_S,
    checkpoint_s: float = CHECKPOINT_S,
    fence_s: float = FENCE_S,
) -> GcReport:
    """Collect garbage beside whatever else is going on; return what was done.

    First what was condemned `grace_s` or longer ago gets its second look, then the rest its first. With a grace of 0
    both happen in one call. Images removed `undelete_s` or longer ago are forgotten, and so are checkpoints of imports
    that are gone and have not been started again for `checkpoint_s`. Raises Corrupt when the ledger or a manifest
    cannot be read (nothing is deleted), StoreLocked when another collection runs, NoSpace or IoFailed.
    """
    started = time.monotonic()
    report = GcReport(dry_run=dry_run)
    store.ledger.check()  # an image whose row got lost must not be taken for one that nobody wants
    with only_collector(store):
        if dry_run:
            foresee(store, report, undelete_s, checkpoint_s)
        else:
            with store.lease("gc") as lease:
                Collection(store, lease, report, grace_s, fence_s).run(undelete_s, checkpoint_s)
    report.seconds = time.monotonic() - started
    return report


@contextmanager
def only_collector(store: Store) -> Iterator[None]:
    """Keep other collections out; raises StoreLocked when one is at work, NoSpace or IoFailed."""
    with naming(store.layout.collector_lock, "creating"):
        lock = open_lock(store.layout.collector_lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise StoreLocked(f"another collection is at work in {store.path}: let it finish") from error
    finally:
        os.close(lock)


def foresee(store: Store, report: GcReport, undelete_s: float, checkpoint_s: float) -> None:
    """Count what a first look would condemn, and what is condemned already."""
    report.forgotten_images = len(expired_removals(store, undelete_s))
    report.forgotten_checkpoints = expired_checkpoints(store.layout, store.ledger, ago(checkpoint_s))
    condemned = store.ledger.condemned_packs()
    sizes = store.ledger.packs()
    index, alive = mark(store)
    for pack, size in sizes.items():
        try:
            use = use_of(store, index, alive, pack)
        except Corrupt:
            report.damaged_packs += 1
            continue
        if pack in condemned:
            report.waiting_packs += 1
        elif use.alive_size == 0:
            report.condemned_packs += 1
            report.condemned_size += size
        elif use.alive_size < REWRITE_SHARE * use.size:
            report.rewritten_packs += 1


def ago(seconds: float) -> int:
    """Return the time (microseconds, UTC) that was so many seconds ago."""
    return time.time_ns() // 1000 - int(seconds * 1e6)


def expired_removals(store: Store, undelete_s: float) -> list[bytes]:
    """Return the roots of removed images whose undelete period is over."""
    limit = ago(undelete_s)
    return [pin.root for pin, removed_at in store.ledger.removed_pins() if removed_at <= limit]


class Collection:
    """One collection at work."""

    def __init__(self, store: Store, lease: Lease, report: GcReport, grace_s: float, fence_s: float) -> None:
        self._store = store
        self._lease = lease
        self._report = report
        self._grace_s = grace_s
        self._fence_s = fence_s

    def run(self, undelete_s: float, checkpoint_s: float) -> None:
        """Look twice: at what was condemned before, and at everything else; then merge runs."""
        store, report = self._store, self._report
        catch_up(store, MERGED_ENTRIES_MAX)  # while the manifests of what was removed can still be read
        report.forgotten_images = store.ledger.forget_removed(ago(undelete_s))
        drop_dead_leases(store.layout, store.ledger)
        report.forgotten_checkpoints = forget_expired(store.ledger, ago(checkpoint_s))
        self._second_look()
        self._first_look()
        if self._grace_s == 0 and store.ledger.condemned_packs():
            self._second_look()
        report.waiting_packs = len(store.ledger.condemned_packs())
        with arranging_runs(store):
            report.merged_runs = merge_runs(store, self._lease)
        report.removed_orphans = remove_orphans(store, self._lease)

    def _second_look(self) -> None:
        """Delete what was condemned long enough ago and is still unused; take back what is used."""
        store, now = self._store, time.time_ns() // 1000
        due = {
            pack: epoch
            for pack, (epoch, at) in store.ledger.condemned_packs().items()
            if self._grace_s == 0 or now - at >= self._grace_s * 1e6
        }
        if not due:
            return
        oldest_kept = self._wait_for_older_work(max(due.values()))
        due = {pack: epoch for pack, epoch in due.items() if oldest_kept is None or epoch <= oldest_kept}
        if not due:
            return
        with arranging_runs(store):  # what the index says of a chunk must not change between the look and the deed
            self._delete_unused(list(due))

    def _delete_unused(self, due: list[bytes]) -> None:
        store = self._store
        # Leases first, roots after: a writer whose lease is gone has its pin among the roots that are read now.
        index, alive = mark(store)
        uses = self._uses(due, lambda pack: use_of(store, index, alive, pack))
        used = [use.pack for use in uses if use.alive_size]
        store.ledger.revive(used)
        self._report.revived_packs += len(used)
        unused = [use.pack for use in uses if not use.alive_size]
        sizes = store.ledger.packs()
        delete_packs(store, self._lease, unused)
        self._report.deleted_packs += len(unused)
        self._report.deleted_size += sum(sizes[pack] for pack in unused)

    def _first_look(self) -> None:
        """Condemn what nobody uses, and write anew what is mostly unused."""
        store, report = self._store, self._report
        condemned = store.ledger.condemned_packs()
        sizes = store.ledger.packs()
        index, alive = mark(store)
        fresh = [pack for pack in sizes if pack not in condemned]
        uses = self._uses(fresh, lambda pack: use_of(store, index, alive, pack))
        unused = [use.pack for use in uses if not use.alive_size]
        sparse = [use for use in uses if 0 < use.alive_size < REWRITE_SHARE * use.size]
        store.ledger.condemn(unused)
        rewritten = []
        with contextlib.suppress(NoSpace):  # on a full disk what nobody uses goes first, and makes room for the rest
            rewritten = rewrite(store, self._lease, sparse)
        report.condemned_packs += len(unused) + len(rewritten)
        report.condemned_size += sum(sizes[pack] for pack in (*unused, *rewritten))
        report.rewritten_packs += len(rewritten)

    def _uses(self, packs: list[bytes], use: Callable[[bytes], PackUse]) -> list[PackUse]:
        uses = []
        for pack in packs:
            try:
                uses.append(use(pack))
            except Corrupt:
                self._report.damaged_packs += 1
        return uses

    def _wait_for_older_work(self, epoch: int) -> int | None:
        """Wait until leases from before `epoch` are gone or seen to be alive; return the oldest epoch still held.

        A process that counts beats is at work, and keeps what was condemned after it began. One that does not for
        `fence_s` of this process's own, monotonic time stands still, and is given up.
        """
        first = {row.id: row.beats for row in self._older(epoch)}
        deadline = time.monotonic() + self._fence_s
        while True:
            drop_dead_leases(self._store.layout, self._store.ledger)
            rows = self._older(epoch)
            still = [row for row in rows if first.get(row.id) == row.beats]
            if not still:
                return min((row.epoch for row in rows), default=None)
            if time.monotonic() >= deadline:
                give_up(self._store.ledger, [row.id for row in still])
                self._report.fenced_leases += len(still)
                continue
            time.sleep(min(POLL_S, max(0.01, deadline - time.monotonic())))

    def _older(self, epoch: int) -> list[LeaseRow]:
        return [row for row in lease_rows(self._store.ledger) if row.epoch < epoch and row.id != self._lease.id]
