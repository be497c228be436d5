"""Counting who uses what: the sizes that depend on other images, kept so that each change costs what it changes.

Count files say for each chunk how many roots use it and the sum of those roots' numbers: when one root is left, the sum
is its number. A root that comes or goes looks its own chunks up there, adjusts what other roots have to themselves, and
adds a file of its own differences. Files are merged like runs; a new one most of whose ids are in others is merged at
once, since versions of a disk then cost what they do not share. The ledger names the files and the roots they count in
one transaction; roots that are pinned but not counted, or the reverse, are what there is left to do, so a crash, or a
program that does not count, only leaves work. Everything here is derived: when it is lost or damaged it is made anew.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from dataplane.dataclass import dataclass, field, replace
from dataplane.engine.counts import Change, count_chunks, ids_between, sort_distinct
from dataplane.engine.run_merge import RunMerge
from dataplane.engine.runs import Run, RunCorrupt
from dataplane.errors import Corrupt, DataplaneError
from dataplane.hints import TYPE_CHECKING
from dataplane.limits import MIB, PAGE_CHUNKS
from dataplane.store import format as fmt
from dataplane.store.counted_roots import (
    COUNTS_VERSION,
    SELECT_COUNTED,
    SELECT_TOTALS,
    CountedRoot,
    CountsDamaged,
    Totals,
    checked_counted,
    checked_totals,
    forget_counts,
    pending,
    put_counted,
    put_totals,
)
from dataplane.store.layout import naming, sync_folder
from dataplane.store.lease import Lease
from dataplane.store.ledger import object_name
from dataplane.store.merging import MERGED_ENTRIES_MAX, PIECE_ENTRIES, TIER_FACTOR, merged_pieces, pick_group
from dataplane.store.run_file import write_entries
from dataplane.store.runs import Index, map_file, open_run
from dataplane.store.sql import SqlConnection
from dataplane.store.store import Store
from dataplane.store.workspace import trying_lock

if TYPE_CHECKING:
    from typing import BinaryIO

IDS_MAX = MIB
"""Chunk ids that are sorted at once, 32 MiB; an image with more is gone through several times."""

STEP_IDS = 4096
"""Ids that are looked up between two chances for other threads."""


@dataclass(slots=True, kw_only=True)
class Difference:
    """What one root's coming or going changes; see ``dataplane.engine.counts.Change``."""

    entries: int = 0
    used_chunks: int = 0
    used_size: int = 0
    others: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, change: Change) -> None:
        """Add what some of the chunks change."""
        self.entries += len(change.entries) // fmt.RUN_ENTRY_SIZE
        self.used_chunks += change.used_chunks
        self.used_size += change.used_size
        for number, (chunks, size) in change.others.items():
            before = self.others.get(number, (0, 0))
            self.others[number] = before[0] + chunks, before[1] + size


def update_counts(store: Store, *, wait: bool = True, entries_max: int = MERGED_ENTRIES_MAX) -> bool:
    """Count what was pinned or removed since the last time; return whether nothing but damaged images is left to count.

    Without `wait` it returns at once when another process is counting. Files are merged while that makes none of more
    than `entries_max` entries. Raises NoSpace, IoFailed or LeaseLost; damaged manifests are skipped.
    """
    if store.ledger.schema_version < COUNTS_VERSION:
        return False
    with contextlib.suppress(CountsDamaged):  # it will be met again, and all counted anew
        if not any(pending(store)):
            return True
    with trying_lock(store.layout.counts_lock, wait=wait) as alone:
        if not alone:
            return False
        with store.lease("count") as lease, naming(store.layout.counts, "counting in"):
            try:
                Counting(store, lease).run(entries_max)
            except CountsDamaged:
                forget_counts(store)
                Counting(store, lease).run(entries_max)
    return True


class Counting:
    """One process at the counts; it holds their lock."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self._store = store
        self._lease = lease
        self._skipped: set[tuple[bytes, str]] = set()

    def run(self, entries_max: int) -> None:
        """Count until only damaged images are left. Raises CountsDamaged when all has to be counted anew."""
        self._remove_strays()
        while True:
            joining, leaving = pending(self._store)
            joining = [root for root in joining if root not in self._skipped]
            if not joining and not leaving:
                return
            for counted in leaving:
                try:
                    alike = self._count(counted.root, counted.domain, counted.number, leaving=True)
                except Corrupt as error:  # what it used cannot be told any more
                    raise CountsDamaged(str(error)) from error
                self._merge(entries_max, alike)
            for root, domain in joining:
                try:
                    alike = self._count(root, domain, self._next_number(), leaving=False)
                except CountsDamaged:
                    raise
                except Corrupt:
                    self._skipped.add((root, domain))
                else:
                    self._merge(entries_max, alike)

    def _next_number(self) -> int:
        ((number,),) = self._store.ledger.query("SELECT COALESCE(MAX(number), 0) + 1 FROM counted_roots")
        return int(str(number))

    def _names(self) -> dict[bytes, int]:
        rows = self._store.ledger.query("SELECT name, entries FROM count_files ORDER BY entries DESC, name")
        with self._store.ledger.parsing():
            return {object_name(name): int(str(entries)) for name, entries in rows}

    def _open(self, names: list[bytes]) -> list[Run]:
        opened = []
        for name in names:
            path = self._store.layout.count_file(name)
            try:
                data = map_file(path)
                layout, _ = fmt.parse_run(data, f"count file {path.name}", fmt.COUNTS_MAGIC)
            except Corrupt as error:
                raise CountsDamaged(str(error)) from error
            opened.append(open_run(data, layout, b""))
        return opened

    def _count(self, root: bytes, domain: str, number: int, *, leaving: bool) -> bytes | None:
        """Count the chunks of a root in or out, durably; return the new count file when most of its ids are in others
        too."""
        import tempfile  # it costs start-up time, and every import of an image loads this module

        store = self._store
        index = store.index_without(())
        counts = self._open(list(self._names()))
        with tempfile.TemporaryFile(dir=self._lease.path) as spool:
            difference = Difference()
            for ids in self._sorted_ids(index, root, domain):
                for at in range(0, len(ids), STEP_IDS * fmt.ID_SIZE):
                    change = self._look_up(ids[at : at + STEP_IDS * fmt.ID_SIZE], counts, index, number, leaving)
                    if change.missing:
                        raise Corrupt(f"chunk {change.missing[0].hex()} of root {root.hex()} is in no run of the store")
                    spool.write(change.entries)
                    difference.add(change)
            spool.seek(0)
            names = self._write(difference.entries, pieces_of(spool))
        with store.ledger.transaction() as connection:
            self._lease.check(connection)
            note_difference(connection, store.ledger.name, root, domain, number, difference, leaving=leaving)
            note_files(connection, names, [])
        known = difference.entries if leaving else difference.entries - difference.used_chunks
        return names[0][0] if names and 2 * known >= difference.entries else None

    def _look_up(self, ids: memoryview, counts: list[Run], index: Index, number: int, leaving: bool) -> Change:
        try:
            return count_chunks(ids, counts, index.runs, number, leaving)
        except RunCorrupt as error:
            if error.run < len(counts):
                raise CountsDamaged(f"a count file is damaged at {error.offset}") from error
            raise Corrupt(f"run {index.names[error.run - len(counts)].hex()} is damaged at {error.offset}") from error
        except ValueError as error:
            raise CountsDamaged(str(error)) from error

    def _sorted_ids(self, index: Index, root: bytes, domain: str) -> Iterator[memoryview]:
        """Yield the distinct ids of a root's chunks, ascending."""
        manifest = self._store.read_root(index, root, domain)
        rounds = min(256, -(-len(manifest.pages) * PAGE_CHUNKS // IDS_MAX))
        for number in range(rounds):
            first, last = 256 * number // rounds, 256 * (number + 1) // rounds - 1
            ids = bytearray()
            for _, page in self._store.read_pages(index, manifest):
                ids += ids_between(page, first, last)
            yield memoryview(ids)[: sort_distinct(ids) * fmt.ID_SIZE]

    def _write(self, entries: int, pieces: Iterator[bytes]) -> list[tuple[bytes, int]]:
        """Write a count file and move it into place; return (name, entries), nothing when it would be empty."""
        if not entries:
            return []
        layout = self._store.layout
        nonce = os.urandom(fmt.ID_SIZE)  # a root that goes and comes again has the same entries
        name, path, _ = write_entries(
            self._lease.path, [nonce], entries, pieces, magic=fmt.COUNTS_MAGIC, suffix="counts"
        )
        if not layout.counts.exists():
            layout.counts.mkdir(exist_ok=True)
            sync_folder(layout.root)
        path.rename(layout.count_file(name))
        sync_folder(layout.counts)
        return [(name, entries)]

    def _merge(self, entries_max: int, alike: bytes | None) -> None:
        """Merge the file `alike`, if any, with one that is no more than TIER_FACTOR times as long, and tiers that are
        full, while that makes no more than `entries_max` entries."""
        if alike is not None:
            sizes = self._names()
            most = min(TIER_FACTOR * sizes[alike], entries_max - sizes[alike])
            others = [name for name, entries in sizes.items() if name != alike and entries <= most]
            if others:  # the longest comes first
                self._merge_group([others[0], alike])
        while group := pick_group(self._names(), entries_max):
            self._merge_group(group)

    def _merge_group(self, group: list[bytes]) -> None:
        runs = self._open(group)
        try:
            names = self._write(RunMerge(runs).count(), merged_pieces(RunMerge(runs)))
        except RunCorrupt as error:
            raise CountsDamaged(f"count file {group[error.run].hex()} is damaged at {error.offset}") from error
        with self._store.ledger.transaction() as connection:
            self._lease.check(connection)
            note_files(connection, names, group)
        for name in set(group) - {name for name, _ in names}:
            self._store.layout.count_file(name).unlink(missing_ok=True)

    def _remove_strays(self) -> None:
        """Remove what a crash left: nobody else moves count files into place while the lock is held."""
        layout = self._store.layout
        live = {layout.count_file(name) for name in self._names()}
        if layout.counts.exists():
            for path in layout.counts.iterdir():
                if path not in live:
                    path.unlink(missing_ok=True)


def pieces_of(spool: BinaryIO) -> Iterator[bytes]:
    """Yield what a file holds, some entries at a time."""
    return iter(lambda: spool.read(PIECE_ENTRIES * fmt.RUN_ENTRY_SIZE), b"")


def note_difference(
    connection: SqlConnection,
    ledger: str,
    root: bytes,
    domain: str,
    number: int,
    difference: Difference,
    *,
    leaving: bool,
) -> None:
    """Note in the ledger (called `ledger`) that a root is counted, or no longer, and what that changes for others.

    Raises CountsDamaged when what is noted there does not match its checksums.
    """
    sign = 1 if leaving else -1
    for other, (chunks, size) in difference.others.items():
        row = connection.execute(f"{SELECT_COUNTED} WHERE number = ?", (other,)).fetchone()
        if row is None:
            raise CountsDamaged(f"count files know a root by {other}, and {ledger} knows none")
        before = checked_counted(row, ledger)
        unique_size, unique_chunks = before.unique_size + sign * size, before.unique_chunks + sign * chunks
        put_counted(connection, replace(before, unique_size=unique_size, unique_chunks=unique_chunks))
    if leaving:
        connection.execute("DELETE FROM counted_roots WHERE number = ?", (number,))
    else:
        own = CountedRoot(
            root=root,
            domain=domain,
            number=number,
            unique_size=difference.used_size,
            unique_chunks=difference.used_chunks,
        )
        put_counted(connection, own)
    totals = checked_totals(connection.execute(SELECT_TOTALS).fetchall(), ledger)
    size, chunks = totals.size - sign * difference.used_size, totals.chunks - sign * difference.used_chunks
    put_totals(connection, Totals(size=size, chunks=chunks))


def note_files(connection: SqlConnection, new: list[tuple[bytes, int]], old: list[bytes]) -> None:
    """Let count files `new` (name, entries) be live, and `old` no longer."""
    connection.executemany("DELETE FROM count_files WHERE name = ?", [(name.hex(),) for name in old])
    connection.executemany(
        "INSERT INTO count_files (name, entries, created_at) VALUES (?, ?, 0)",
        [(name.hex(), entries) for name, entries in new],
    )


def catch_up(store: Store, entries_max: int) -> None:
    """Count what is not counted, unless another process is at it or something stands in the way: it can wait."""
    with contextlib.suppress(DataplaneError):
        update_counts(store, wait=False, entries_max=entries_max)
