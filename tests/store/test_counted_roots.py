"""Counts in the ledger carry checksums: a wrong number is told, named by verify, and counted anew by repair."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from dataplane.errors import Corrupt
from dataplane.formats.probe import open_source
from dataplane.ingest.importing import import_image
from dataplane.limits import KIB
from dataplane.store.recounting import recount_image, recount_store
from dataplane.store.statistics import image_sizes, store_sizes
from dataplane.store.store import Store
from dataplane.upkeep.repair import repair
from dataplane.upkeep.scrub import scrub
from tests.disks import disk_bytes, write_sparse

ROWS = {
    "size": "UPDATE counted_roots SET unique_size = unique_size + 4096 WHERE number = 1",
    "chunks": "UPDATE counted_roots SET unique_chunks = unique_chunks - 1 WHERE number = 1",
    "sum": "UPDATE counted_roots SET row_sum = NULL WHERE number = 1",
}
TOTALS = {
    "total size": "UPDATE ledger_meta SET value = '1' WHERE name = 'counted_size'",
    "total chunks": "UPDATE ledger_meta SET value = '1' WHERE name = 'counted_chunks'",
    "total lost": "DELETE FROM ledger_meta WHERE name = 'counted_chunks'",
    "total's sum": "UPDATE ledger_meta SET value = 'x' WHERE name = 'counted_sum'",
}


def bring(store: Store, name: str, *pieces: int) -> None:
    """Import a disk of pieces of four chunks each; equal pieces are shared."""
    data = b"".join(disk_bytes(16 * KIB, seed=piece, block=4 * KIB) for piece in pieces)
    with open_source(write_sparse(store.path.parent / "disk", data), format="raw") as source:
        import_image(store, source, name=name, threads=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with two images that share a third, counted."""
    with Store.create(tmp_path / "store", chunk_size=4 * KIB) as store:
        bring(store, "a", 1, 2, 3)
        bring(store, "b", 3, 4)
        assert store_sizes(store).unique_size > 0
    return tmp_path / "store"


def damage(path: Path, statement: str) -> None:
    with sqlite3.connect(path / "ledger.sqlite3") as connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()


@pytest.mark.parametrize("statement", [*ROWS.values(), *TOTALS.values()], ids=[*ROWS, *TOTALS])
def test_wrong_numbers_are_told_and_counted_anew(path: Path, statement: str) -> None:
    damage(path, statement)
    with Store.open(path) as store:
        with pytest.raises(Corrupt, match="run dataplane repair"):
            store_sizes(store)
        (problem,) = scrub(store, threads=1).run_damage
        assert "counts" in problem
    repair(path)
    with Store.open(path) as store:
        assert scrub(store, threads=1).run_damage == []
        assert store_sizes(store) == recount_store(store)
        for name in ("a", "b"):
            assert image_sizes(store, name) == recount_image(store, store.pin(name))


@pytest.mark.parametrize("statement", ROWS.values(), ids=ROWS)
def test_only_the_image_whose_counts_are_damaged_is_refused(path: Path, statement: str) -> None:
    damage(path, statement)
    with Store.open(path) as store:
        refused = store.ledger.query("SELECT name FROM pins JOIN counted_roots USING (root, domain) WHERE number = 1")
        assert refused == [("a",)]
        with pytest.raises(Corrupt, match=r"counts of root [0-9a-f]{64} do not match their checksum"):
            image_sizes(store, "a")
        assert image_sizes(store, "b") == recount_image(store, store.pin("b"))


@pytest.mark.parametrize("statement", [*ROWS.values(), *TOTALS.values()], ids=[*ROWS, *TOTALS])
@pytest.mark.parametrize("change", ["add", "remove"])
def test_counting_begins_anew_when_what_it_builds_on_is_damaged(path: Path, statement: str, change: str) -> None:
    damage(path, statement)
    with Store.open(path) as store:
        if change == "add":
            bring(store, "c", 1)
        else:
            store.unpin("a")
        try:
            assert store_sizes(store) == recount_store(store)
        except Corrupt:  # stat may come first, and says so
            repair(path)
            assert store_sizes(store) == recount_store(store)


def test_command_says_what_is_wrong(path: Path) -> None:
    damage(path, ROWS["size"])

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dataplane", *map(str, words)]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)

    told = run("stat", path)
    assert (told.returncode, told.stdout) == (3, "")
    assert "do not match their checksum; run dataplane repair" in told.stderr
    verified = run("verify", path, "--json", "--progress", "none")
    assert verified.returncode == 3
    assert "its counts of root" in json.loads(verified.stdout)["run_damage"][0]
    assert run("repair", path, "--progress", "none").returncode == 0
    assert run("stat", path).returncode == 0
