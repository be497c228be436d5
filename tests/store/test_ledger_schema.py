"""Versions of the ledger: earlier ones are read, brought up to date by what may write; later ones are refused."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dataplane.errors import Corrupt, IoFailed, StoreIncompatible
from dataplane.ingest.exporting import export_image
from dataplane.store import ledger, ledger_schema
from dataplane.store.checkpoints import checkpoints
from dataplane.store.recounting import recount_image, recount_store
from dataplane.store.statistics import image_sizes, store_sizes
from dataplane.store.store import Store
from dataplane.upkeep.scrub import scrub
from tests.store.test_golden_store import GOLDEN, GOLDEN_2, open_golden


def tables(path: Path) -> set[str]:
    """Return the statements that made the tables of a ledger, however they are laid out."""
    with sqlite3.connect(path / "ledger.sqlite3") as connection:
        rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {" ".join(str(sql).split()) for (sql,) in rows}


def read_disk(store: Store, target: Path) -> bytes:
    export_image(store, "disk", target, force=True)
    return target.read_bytes()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the frozen store, whose ledger has version 1."""
    open_golden(tmp_path, may_write=False).close()
    return tmp_path / "store"


def test_frozen_ledger_is_of_version_1(old: Path) -> None:
    with sqlite3.connect(old / "ledger.sqlite3") as connection:
        assert connection.execute("SELECT value FROM ledger_meta WHERE name = 'schema_version'").fetchone() == ("1",)
    assert tables(old) == {" ".join(statement.split()) for statement in ledger_schema.VERSION_1}


def test_old_ledger_is_read_as_it_is(old: Path) -> None:
    before = tables(old)
    with Store.open(old, may_write=False) as store:
        assert store.ledger.schema_version == 1
        assert [pin.name for pin in store.pins()] == ["disk"]
    assert tables(old) == before


def test_old_ledger_is_brought_up_to_date(old: Path, tmp_path: Path) -> None:
    with Store.open(old, may_write=False) as store:
        content = read_disk(store, tmp_path / "out.raw")
        pins = store.pins()
    with Store.open(old) as store:
        assert store.ledger.schema_version == ledger_schema.SCHEMA_VERSION
        assert store.pins() == pins
        assert read_disk(store, tmp_path / "out.raw") == content
    Store.create(tmp_path / "new").close()
    assert tables(old) == tables(tmp_path / "new")
    with Store.open(old, may_write=False) as store:
        assert store.ledger.schema_version == ledger_schema.SCHEMA_VERSION


def test_many_openings_at_once_bring_up_to_date_once(old: Path) -> None:
    versions = []

    def open_it() -> None:
        with Store.open(old) as store:
            versions.append(store.ledger.schema_version)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert versions == [ledger_schema.SCHEMA_VERSION] * 8


def test_a_step_that_fails_leaves_the_old_version(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tables(old)
    with monkeypatch.context() as patch:
        patch.setattr(ledger_schema, "STEPS", (ledger_schema.VERSION_1, (*ledger_schema.VERSION_2, "no statement")))
        with pytest.raises(Exception, match="lacks what it must have"):
            Store.open(old)
    assert tables(old) == before
    with Store.open(old) as store:
        assert store.ledger.schema_version == ledger_schema.SCHEMA_VERSION


def test_old_ledger_on_a_full_disk_is_read(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise sqlite3_full()

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "take_steps", fail)
        with Store.open(old) as store:
            assert store.ledger.schema_version == 1
            assert len(read_disk(store, tmp_path / "out.raw")) == 50_176


def sqlite3_full() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


def test_newer_ledger_is_refused_by_name(old: Path) -> None:
    with sqlite3.connect(old / "ledger.sqlite3") as connection:
        connection.execute("UPDATE ledger_meta SET value = '4' WHERE name = 'schema_version'")
    for may_write in (False, True):
        with pytest.raises(StoreIncompatible, match="schema version 4, this program knows versions up to 3"):
            Store.open(old, may_write=may_write)
    done = subprocess.run(
        [sys.executable, "-m", "dataplane", "ls", old], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (5, "")
    assert "schema version 4" in done.stderr


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """A copy of the frozen store whose ledger has version 2."""
    open_golden(tmp_path, may_write=False, frozen=GOLDEN_2).close()
    return tmp_path / "store"


def test_frozen_ledger_is_of_version_2(second: Path) -> None:
    with sqlite3.connect(second / "ledger.sqlite3") as connection:
        assert connection.execute("SELECT value FROM ledger_meta WHERE name = 'schema_version'").fetchone() == ("2",)
        assert connection.execute("SELECT COUNT(*) FROM counted_roots").fetchone() == (2,)


def test_ledger_of_version_2_is_read_as_it_is(second: Path) -> None:
    before = tables(second)
    with Store.open(second, may_write=False) as store:
        assert store.ledger.schema_version == 2
        assert [pin.name for pin in store.pins()] == ["a", "b"]
        assert store_sizes(store) == recount_store(store)
        assert [found.storage_size for found in checkpoints(store.ledger)] == [None]
    assert tables(second) == before


def test_counts_of_version_2_are_counted_anew(second: Path, tmp_path: Path) -> None:
    """They have no checksum that could say whether they are still what they were."""
    with sqlite3.connect(second / "ledger.sqlite3") as connection:
        connection.execute("UPDATE counted_roots SET unique_size = unique_size + 4096 WHERE number = 1")
    with Store.open(second) as store:
        assert store.ledger.schema_version == ledger_schema.SCHEMA_VERSION
        assert store_sizes(store) == recount_store(store)
        assert image_sizes(store, "a") == recount_image(store, store.pin("a"))
        assert [found.storage_size for found in checkpoints(store.ledger)] == [None]
        assert scrub(store, threads=1).run_damage == []
    Store.create(tmp_path / "new").close()
    assert tables(second) == tables(tmp_path / "new")


def test_damaged_pins_of_version_2_are_not_sealed(second: Path) -> None:
    with sqlite3.connect(second / "ledger.sqlite3") as connection:
        connection.execute("UPDATE pins SET data_size = data_size + 1 WHERE name = 'a'")
    with Store.open(second) as store:
        assert store.ledger.schema_version == ledger_schema.SCHEMA_VERSION
        with pytest.raises(Corrupt, match="its row of image 'a' does not match its checksum"):
            store.pins()


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'


def run_where_read_only(store: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run dataplane where `store` is mounted read-only; skips where mounting is not allowed."""
    command = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(store)]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("a read-only mount needs the right to mount")
    return subprocess.run(
        [*command, sys.executable, "-m", "dataplane", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_old_store_on_a_read_only_medium_is_read(old: Path, tmp_path: Path) -> None:
    listed = run_where_read_only(old, "ls", old)
    assert (listed.returncode, "disk" in listed.stdout) == (0, True), listed.stderr
    exported = run_where_read_only(old, "export", old, "disk", tmp_path / "out.raw")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "out.raw").stat().st_size == 50_176
    refused = run_where_read_only(old, "rm", old, "disk")
    assert refused.returncode == 1
    assert "readonly" in refused.stderr
    with sqlite3.connect(old / "ledger.sqlite3") as connection:
        assert connection.execute("SELECT value FROM ledger_meta WHERE name = 'schema_version'").fetchone() == ("1",)


def test_a_log_that_cannot_be_read_is_no_reason_to_read_less(old: Path) -> None:
    """Commits that are only in the log beside the ledger would be missed by reading the ledger alone."""
    shutil.copy(GOLDEN / "ledger.sqlite3", old / "ledger.sqlite3")
    (old / "ledger.sqlite3-wal").write_bytes(b"log")
    done = run_where_read_only(old, "ls", old)
    assert done.returncode == 1
    assert "copy the store elsewhere" in done.stderr
    assert IoFailed.__name__ not in done.stderr
