"""Random histories of imports, removals, undeletes and collections, against a dictionary; and all of them at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import PreparedImport, import_image, prepare_import
from dataplane.store.store import Store
from dataplane.upkeep.gc import collect
from dataplane.upkeep.scrub import scrub
from tests.disks import KIB, disk_bytes, write_sparse

SEEDS = st.integers(0, 4)
NAMES = st.sampled_from("abcd")


class Histories(RuleBasedStateMachine):
    """A store and what must be in it."""

    @initialize()
    def create(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store.create(self.folder / "store", chunk_size=4 * KIB)
        self.images: dict[str, bytes] = {}
        self.removed: dict[str, list[bytes]] = {}
        self.pending: tuple[PreparedImport, bytes] | None = None

    def disk(self, seed: int) -> tuple[Path, bytes]:
        """Disks of neighbouring seeds share half their content."""
        data = disk_bytes(96 * KIB, seed=seed, block=4 * KIB) + disk_bytes(96 * KIB, seed=seed + 1, block=4 * KIB)
        return write_sparse(self.folder / "disk", data), data

    @rule(name=NAMES, seed=SEEDS)
    def bring(self, name: str, seed: int) -> None:
        if name not in self.images:
            path, self.images[name] = self.disk(seed)
            with open_source(path, format="raw") as source:
                import_image(self.store, source, name=name)

    @precondition(lambda self: self.pending is None)
    @rule(seed=SEEDS)
    def begin_import(self, seed: int) -> None:
        path, data = self.disk(seed)
        with open_source(path, format="raw") as source:
            self.pending = prepare_import(self.store, source), data

    @precondition(lambda self: self.pending is not None)
    @rule(name=NAMES, give_up=st.booleans())
    def end_import(self, name: str, give_up: bool) -> None:
        assert self.pending is not None
        prepared, data = self.pending
        self.pending = None
        with prepared:
            if not give_up and name not in self.images:
                prepared.pin(name)
                self.images[name] = data

    @rule(name=NAMES, undeletable=st.booleans())
    def remove(self, name: str, undeletable: bool) -> None:
        if name in self.images:
            self.store.unpin(name, undeletable=undeletable)
            data = self.images.pop(name)
            if undeletable:
                self.removed.setdefault(name, []).append(data)

    @rule(name=NAMES)
    def undelete(self, name: str) -> None:
        if name not in self.images and self.removed.get(name):
            self.store.undelete(name)
            self.images[name] = self.removed[name].pop()

    @rule(grace=st.sampled_from([0.0, 3600.0]), forget=st.booleans())
    def collect(self, grace: float, forget: bool) -> None:
        # A pending import of this very process is alive, but its heart beats too slowly for a test: never fence it.
        if self.pending is not None and self.store.ledger.condemned_packs():
            grace = 3600.0
        if self.pending is not None:
            grace = 3600.0
        collect(self.store, grace_s=grace, undelete_s=0.0 if forget else 3600.0, fence_s=0.01)
        if forget:
            self.removed.clear()

    @invariant()
    def every_image_is_whole(self) -> None:
        if not hasattr(self, "store"):
            return
        for name, data in self.images.items():
            export_image(self.store, name, self.folder / "out", force=True, threads=1)
            assert (self.folder / "out").read_bytes() == data, name

    def teardown(self) -> None:
        if hasattr(self, "store"):
            if self.pending is not None:
                self.pending[0].__exit__(None, None, None)
            assert scrub(self.store).damage == []
            self.store.close()
            shutil.rmtree(self.folder)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=20, stateful_step_count=15)

WORKER = """
import random, sys
from pathlib import Path
from dataplane import Store, open_source, import_image, export_image
from dataplane.errors import NotFound
from tests.disks import KIB, disk_bytes, write_sparse
store, folder, who, rounds = Store.open(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
rnd = random.Random(who)
for n in range(rounds):
    seed = rnd.randrange(5)
    data = disk_bytes(256 * KIB, seed=seed, block=4 * KIB) + disk_bytes(256 * KIB, seed=seed + 1, block=4 * KIB)
    path = write_sparse(folder / f"disk-{who}", data)
    with open_source(path, format="raw") as source:
        import_image(store, source, name=f"{who}-{n}")
    export_image(store, f"{who}-{n}", folder / f"out-{who}", force=True)
    assert (folder / f"out-{who}").read_bytes() == data, f"{who} round {n}"
    store.unpin(f"{who}-{n}")
"""

COLLECTOR = """
import sys, time
from dataplane import Store
from dataplane.upkeep.gc import collect
store, until = Store.open(sys.argv[1]), time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    collect(store, grace_s=0, undelete_s=0, fence_s=20)
"""


def test_imports_exports_removals_and_collections_at_once(tmp_path: Path) -> None:
    with Store.create(tmp_path / "store", chunk_size=4 * KIB) as store:
        workers = [
            subprocess.Popen([sys.executable, "-c", WORKER, str(store.path), str(tmp_path), str(who), "12"])
            for who in range(2)
        ]
        collector = subprocess.Popen([sys.executable, "-c", COLLECTOR, str(store.path), "3"])
        assert [process.wait(timeout=120) for process in (*workers, collector)] == [0, 0, 0]
        assert scrub(store).damage == []
        collect(store, grace_s=0, undelete_s=0, fence_s=5)
        assert store.ledger.packs() == {}
