"""Deleting: packs leave the ledger and the index first, and the disk last."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataplane.store.layout import Layout, naming, remove_file
from dataplane.store.lease import Lease
from dataplane.store.merging import replace_runs, write_merged
from dataplane.store.store import Store
from dataplane.store.workspace import LOCK_NAME, held, is_abandoned


def delete_packs(store: Store, lease: Lease, packs: list[bytes]) -> None:
    """Delete packs that nobody needs: one transaction replaces the runs that name them, then the files go.

    ``arranging_runs`` is held. A crash between the two leaves files that no one names. Raises NoSpace, IoFailed or
    Corrupt.
    """
    if not packs:
        return
    gone = set(packs)
    old_runs, new_runs = [], []
    index = store.index_without(gone)
    for name, members, run in zip(index.names, index.packs_of_runs, index.runs, strict=True):
        if gone.isdisjoint(members):
            continue
        old_runs.append(name)
        if not gone.issuperset(members):
            new_runs.append(write_merged([run], [members], lease.path, without=gone))
    replace_runs(store, lease, old_runs, new_runs, without=packs)
    for pack in packs:
        remove_file(store.layout.pack(pack))


def remove_orphans(store: Store, lease: Lease) -> int:
    """Remove files that the ledger does not name, when no other work is going on; return how many.

    Writers move files into place just before the ledger names them. With the lock under which writers begin held, and
    none of them at work, a file without a name is what a crash left.
    """
    with (
        naming(store.path, "looking for files without a name in"),
        nobody_else_at_work(store.layout, lease.path.name) as alone,
    ):
        strays = unnamed_files(store) if alone else []
        for path in strays:
            remove_file(path)
    return len(strays)


def find_strays(store: Store) -> list[Path]:
    """Return what ``remove_orphans`` would remove, if a store that cannot be written lets that be found out."""
    with contextlib.suppress(OSError), nobody_else_at_work(store.layout) as alone:
        return unnamed_files(store) if alone else []
    return []


@contextmanager
def nobody_else_at_work(layout: Layout, own: str = "") -> Iterator[bool]:
    """Hold the lock under which writers begin; give whether none but that of folder `own` is at work."""
    with held(layout.temporary / LOCK_NAME):
        others = [path for path in layout.temporary.iterdir() if path.name not in (LOCK_NAME, own)]
        yield all(is_abandoned(path) for path in others)


def unnamed_files(store: Store) -> list[Path]:
    """Return the files among packs and runs that the ledger does not name."""
    layout = store.layout
    live = {layout.pack(name) for name in store.ledger.packs()} | {layout.run(name) for name in store.ledger.runs()}
    return [path for path in (*layout.packs.glob("*/*"), *layout.runs.iterdir()) if path not in live]
