"""Merging runs: every import adds one, and look-ups ask each; so those of like size become one, again and again.

Runs are in tiers by their number of entries, each tier four times the one below. Four runs of a tier make one of the
next, so that a store of n chunks has a few runs for each factor of four, and an entry is written again once a tier.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from dataplane.engine.run_merge import RunMerge
from dataplane.engine.runs import Run
from dataplane.errors import DataplaneError
from dataplane.limits import KIB, MIB
from dataplane.store.layout import remove_file
from dataplane.store.lease import Lease
from dataplane.store.publish import publish
from dataplane.store.run_file import write_entries
from dataplane.store.runs import ENTRIES_PER_RUN_MAX, Index
from dataplane.store.store import Store
from dataplane.store.workspace import trying_lock

TIER_FACTOR = 4
TIER_ENTRIES_MIN = 4 * KIB
"""Runs with no more entries than this are all of the lowest tier."""

MERGED_ENTRIES_MAX = 16 * MIB
"""Entries in a merged run: 768 MiB, whose filter takes 26 MiB of memory while it is written."""

PIECE_ENTRIES = 64 * KIB
LEFT_OUT = 0xFFFFFFFF
"""The number of a pack whose entries a merge leaves out."""


def tier_of(entries: int) -> int:
    """Return the tier of a run."""
    tier = 0
    while entries > TIER_ENTRIES_MIN * TIER_FACTOR**tier:
        tier += 1
    return tier


def pick_group(sizes: Mapping[bytes, int], entries_max: int) -> list[bytes]:
    """Return the names of files to merge next, given the entries of each: the smallest of the lowest full tier, or
    none when no tier is full or what they make would have more than `entries_max` entries."""
    tiers: dict[int, list[tuple[int, bytes]]] = {}
    for name, entries in sizes.items():
        tiers.setdefault(tier_of(entries), []).append((entries, name))
    for tier in sorted(tiers):
        group, total = [], 0
        for entries, name in sorted(tiers[tier]):
            if total + entries > entries_max:
                break
            group.append(name)
            total += entries
        if len(group) >= TIER_FACTOR:
            return group
    return []


def arranging_runs(store: Store, *, wait: bool = True) -> AbstractContextManager[bool]:
    """Keep others from replacing runs; without `wait`, give False when another process is at it."""
    return trying_lock(store.layout.index_lock, wait=wait)


def merge_small_runs(store: Store) -> int:
    """Merge what imports have made, where that is quick; return how many runs went. What is left is for gc."""
    with contextlib.suppress(DataplaneError):
        if pick_group(store.ledger.run_sizes(), ENTRIES_PER_RUN_MAX):
            with arranging_runs(store, wait=False) as alone:
                if alone:
                    with store.lease("merge") as lease:
                        return merge_runs(store, lease, ENTRIES_PER_RUN_MAX)
    return 0


def merge_runs(store: Store, lease: Lease, entries_max: int = MERGED_ENTRIES_MAX) -> int:
    """Merge runs until no tier is full, and return how many went; ``arranging_runs`` is held.

    Each merge is one transaction: a crash leaves the old runs or the new one. Raises NoSpace, IoFailed, Corrupt or
    LeaseLost.
    """
    gone = 0
    while group := pick_group(store.ledger.run_sizes(), entries_max):
        index = Index(store.layout, [name for name in store.ledger.runs() if name in set(group)])
        made = write_merged(index.runs, index.packs_of_runs, lease.path, spare=store.ledger.condemned_packs().keys())
        replace_runs(store, lease, index.names, [made])
        gone += len(group)
    return gone


def write_merged(
    runs: Sequence[Run],
    packs_of_runs: Sequence[Sequence[bytes]],
    folder: Path,
    *,
    spare: Collection[bytes] = (),
    without: Collection[bytes] = (),
) -> tuple[bytes, Path, int]:
    """Write the entries of runs, in the order in which they are searched, as one run into `folder`.

    Of several places of a chunk the first is kept, one in packs of `spare` only when there is no other; entries in
    packs of `without` are left out. Returns name, path and entries. Raises NoSpace, IoFailed or Corrupt.
    """
    members = dict.fromkeys(pack for packs in packs_of_runs for pack in packs if pack not in without)
    ordered = [pack for pack in members if pack not in spare] + [pack for pack in members if pack in spare]
    numbers = {pack: number for number, pack in enumerate(ordered)}
    spare_from = sum(pack not in spare for pack in ordered)
    renumbered = [array("I", [numbers.get(pack, LEFT_OUT) for pack in packs]) for packs in packs_of_runs]
    count = RunMerge(list(runs), list(renumbered), spare_from).count()
    merge = RunMerge(list(runs), list(renumbered), spare_from)
    return write_entries(folder, ordered, count, merged_pieces(merge))


def merged_pieces(merge: RunMerge) -> Iterator[bytes]:
    """Yield the entries of a merge, some at a time."""
    return iter(lambda: merge.take(PIECE_ENTRIES), b"")


def replace_runs(
    store: Store,
    lease: Lease,
    old: Collection[bytes],
    new: list[tuple[bytes, Path, int]],
    *,
    packs: list[tuple[bytes, Path]] | None = None,
    without: Collection[bytes] = (),
) -> None:
    """Let runs `new` (name, path, entries) take the place of `old`, and `packs` (name, path) that of packs `without`.

    All files are durable in the lease's folder. One transaction does it, and then the files of the old runs go; whoever
    has them open keeps what it has.
    """
    sizes = publish(store, packs or [], new)
    with store.ledger.transaction() as connection:
        lease.check(connection)
        store.ledger.remove_objects(connection, without, old)
        store.ledger.add_objects(connection, sizes, [(name, entries) for name, _, entries in new])
    kept = {name for name, _, _ in new}
    for name in old:
        if name not in kept:
            remove_file(store.layout.run(name))
