"""Repair: what is damaged goes to quarantine, what can be had again is put in its place, and the rest is named.

Step by step, each of them one transaction that a crash leaves undone or done, so that a repair can be begun again: a
lost ledger is rebuilt from packs and manifests; runs that are lost or damaged are rebuilt from packs' own tables; every
chunk is read again, and packs with damage give what is good in them to new ones; what is still missing is looked for in
donors. Nothing is deleted: damaged files stay in ``quarantine/``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dataplane.dataclass import dataclass, field
from dataplane.errors import Corrupt, DataplaneError
from dataplane.image_source import ImageSource
from dataplane.ingest.progress import Progress
from dataplane.store import format as fmt
from dataplane.store.checkpoints import forget_all
from dataplane.store.counted_roots import forget_counts
from dataplane.store.lease import Lease, drop_dead_leases
from dataplane.store.merging import arranging_runs, replace_runs
from dataplane.store.pack import read_table
from dataplane.store.pins import Pin
from dataplane.store.runs import map_file, write_runs
from dataplane.store.store import Store
from dataplane.store.stored_image import StoredImage
from dataplane.upkeep.deleting import remove_orphans
from dataplane.upkeep.derived import damaged_counts
from dataplane.upkeep.donors import Donor, ask
from dataplane.upkeep.gc import only_collector
from dataplane.upkeep.hurt_images import HurtImage, hurt_images
from dataplane.upkeep.ledger_rebuild import Rebuilt, rebuild_ledger, what_is_wrong_with
from dataplane.upkeep.missing import missing_objects
from dataplane.upkeep.quarantine import set_aside
from dataplane.upkeep.salvage import Salvage
from dataplane.upkeep.scrub import scrub


@dataclass(slots=True, kw_only=True)
class RepairReport:
    """What a repair found and did. Chunks include manifest pages and roots."""

    ledger: Rebuilt | None = None
    """What came of the ledger when it had to be rebuilt."""
    rebuilt_runs: int = 0
    damaged_chunks: int = 0
    """Damaged, or named by an image and nowhere to be found."""
    healed_chunks: int = 0
    quarantined: list[str] = field(default_factory=list)
    """Names of files in ``quarantine/``."""
    hurt: list[HurtImage] = field(default_factory=list)
    """Images, removed ones that undelete could bring back too, that still cannot be read whole."""
    donor_problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def repair(
    path: Path,
    donors: Sequence[Donor] = (),
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> RepairReport:
    """Repair the store at `path`, beside whatever else is going on; return what was done and what is left.

    A ledger is only rebuilt when no other process is at work. Raises StoreMissing or StoreIncompatible when the store's
    header or secret is lost, StoreLocked when a collection runs or the ledger is lost and others are at work, NoSpace,
    IoFailed, Cancelled or LeaseLost.
    """
    started = time.monotonic()
    report = RepairReport()
    progress = progress or Progress()
    if what_is_wrong_with(path) is not None:
        report.ledger = rebuild_ledger(path)
        report.quarantined += report.ledger.quarantined
    with (
        Store.open(path) as store,
        only_collector(store),
        arranging_runs(store),
        store.lease("repair") as lease,
    ):
        Repair(store, lease, report, threads, progress, cancelled).run(donors)
    report.seconds = time.monotonic() - started
    return report


class Repair:
    """One repair at work; it holds the collector's lock and that of the index."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        report: RepairReport,
        threads: int | None,
        progress: Progress,
        cancelled: threading.Event | None,
    ) -> None:
        self._store = store
        self._lease = lease
        self._report = report
        self._threads = threads
        self._progress = progress
        self._cancelled = cancelled

    def run(self, donors: Sequence[Donor]) -> None:
        """Mend runs, then packs, then images."""
        store, report = self._store, self._report
        drop_dead_leases(store.layout, store.ledger)
        self._mend_runs()
        damage = scrub(store, threads=self._threads, progress=self._progress, cancelled=self._cancelled).damage
        salvage = Salvage(store, self._lease, damage)
        salvage.run()
        report.quarantined += salvage.quarantined
        missing = self._missing()
        damaged = {found.id for found in damage if found.id} | self._ask_donors(donors, missing)
        index = store.index()
        report.damaged_chunks = len(damaged)
        report.healed_chunks = sum(index.find(id) is not None for id in damaged)
        self._note_what_is_lost()
        report.hurt = hurt_images(store, store.index(), (), self._pins())
        if damage or missing or damaged_counts(store):
            forget_counts(store)  # sizes were counted of chunks that were there
            forget_all(store.ledger)  # what they name may be lost; imports that are begun again begin at the start
        remove_orphans(store, self._lease)
        self._progress.stage = "done"

    def _pins(self) -> list[Pin]:
        return [*self._store.pins(), *(pin for pin, _ in self._store.ledger.removed_pins())]

    def _missing(self) -> dict[str, set[bytes]]:
        return missing_objects(self._store, self._store.index(), self._pins())

    def _mend_runs(self) -> None:
        """Set damaged runs aside, and index packs again that no whole run names."""
        store = self._store
        bad: list[bytes] = []
        indexed: set[bytes] = set()
        for name, entries in store.ledger.run_sizes().items():
            packs = packs_of_whole_run(store, name, entries)
            if packs is None:
                bad.append(name)
            else:
                indexed.update(packs)
        packs_left = [(name, store.layout.pack(name)) for name in store.ledger.packs() if name not in indexed]
        readable = [(name, path) for name, path in packs_left if has_table(path)]
        if not bad and not readable:
            return
        made = list(write_runs(readable, self._lease.path))
        for name in bad:
            aside = set_aside(store.layout, store.layout.run(name))
            if aside is not None:
                self._report.quarantined.append(aside)
        # A damaged file may lie where the new one of the same name goes: it is aside by now.
        replace_runs(store, self._lease, bad, made)
        self._report.rebuilt_runs = len(made)

    def _ask_donors(self, donors: Sequence[Donor], missing: dict[str, set[bytes]]) -> set[bytes]:
        """Ask until nothing more comes: a page that is found again names chunks that may be missing too.

        Returns the ids of all that was missing at one time.
        """
        asked_for = set[bytes]().union(*missing.values())
        while missing:
            found = 0
            for donor in donors:
                for domain, wanted in missing.items():
                    count, problem = ask(
                        self._store, self._lease, donor, domain, wanted, threads=self._threads, progress=self._progress
                    )
                    found += count
                    if problem is not None and problem not in self._report.donor_problems:
                        self._report.donor_problems.append(problem)
                missing = self._missing()
                asked_for.update(*missing.values())
            if not found:
                break
        return asked_for

    def _note_what_is_lost(self) -> None:
        """Let the collector know what cannot be had, so that it does not take it for a lost index."""
        lost = set[bytes]().union(*self._missing().values())
        with self._store.ledger.transaction() as connection:
            self._lease.check(connection)
            connection.execute("DELETE FROM lost_chunks")
            connection.executemany("INSERT INTO lost_chunks (id) VALUES (?)", [(id.hex(),) for id in lost])


def packs_of_whole_run(store: Store, name: bytes, entries: int) -> list[bytes] | None:
    """Return the packs that a run names, None when the run is lost or not what its name and the ledger say."""
    path = store.layout.run(name)
    try:
        data = map_file(path)
        layout, packs = fmt.parse_run(data, f"run {path.name}")
        return packs if fmt.run_name(data) == name and layout.entry_count == entries else None
    except Corrupt:
        return None


def has_table(path: Path) -> bool:
    """Tell whether a pack's own table can be read."""
    try:
        read_table(path)
    except DataplaneError:
        return False
    return True


def images_of(other: Store, first: Sequence[str] = ()) -> list[Donor]:
    """Return the images of another store as donors, those with names in `first` before the others."""
    names = sorted((pin.name for pin in other.pins()), key=lambda name: (name not in first, name))
    return [Donor(f"image {name} of {other.path}", lambda name=name: open_stored(other, name)) for name in names]  # type: ignore[misc]


@contextmanager
def open_stored(store: Store, name: str) -> Iterator[ImageSource]:
    """Give an image of a store as a source, kept readable meanwhile."""
    with store.reading(name) as pin, StoredImage(store, pin.root, pin.domain) as source:
        yield source
