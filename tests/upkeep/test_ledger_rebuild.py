"""Ledgers that are lost or damaged: made anew from packs, with every name that can still be read."""

from __future__ import annotations

import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.errors import IoFailed, NoSpace, StoreIncompatible, StoreLocked
from dataplane.ingest.exporting import export_image
from dataplane.store.store import Store
from dataplane.upkeep import ledger_rebuild
from dataplane.upkeep.repair import repair
from tests.postgres import CHOICE
from tests.upkeep.test_repair import assert_whole, disk, donor, hurt_chunk, kept, place_of, shorten, three_images

pytestmark = pytest.mark.skipif(CHOICE in os.environ, reason="a server keeps its databases whole itself")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with images a, b and (in another dedup domain) c, each with a pack of its own."""
    return three_images(tmp_path)


@pytest.mark.parametrize("harm", ["missing", "junk", "short", "page"])
def test_lost_ledger_is_rebuilt(path: Path, harm: str) -> None:
    ledger = path / "ledger.sqlite3"
    with Store.open(path) as store:
        pins = store.pins()
        store.unpin("b", undeletable=True)
    if harm == "missing":
        ledger.unlink()
    elif harm == "junk":
        ledger.write_bytes(b"not a database at all" * 1000)
    elif harm == "short":
        shorten(ledger, ledger.stat().st_size // 2)
    else:
        damage_page_of(ledger, "packs")
    report = repair(path)
    assert report.ledger is not None
    assert report.hurt == []
    if harm == "page":  # names and removals can be read
        assert (report.ledger.named, report.ledger.recovered) == (["a", "c"], [])
        with Store.open(path) as store:
            assert store.pins() == [pin for pin in pins if pin.name != "b"]
            store.undelete("b")
        assert_whole(path, "a", "b", "c")
        return
    names = sorted([*report.ledger.named, *report.ledger.recovered])
    assert len(names) == 3
    with Store.open(path) as store:
        by_root = {pin.root: pin for pin in store.pins()}
        for pin in pins:
            again = by_root[pin.root]
            assert replace(again, name=pin.name, format=pin.format, created_at=pin.created_at) == pin
            export_image(store, again.name, path.parent / "out.raw", force=True)
            assert (path.parent / "out.raw").read_bytes() == disk(path.parent, pin.name).read_bytes()
    assert_whole(path)
    assert ("ledger.sqlite3" in kept(path)) == (harm != "missing")


def damage_page_of(ledger: Path, table: str) -> None:
    """Overwrite the first page of a table."""
    with sqlite3.connect(ledger) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((number,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))
        ((size,),) = connection.execute("PRAGMA page_size")
    connection.close()
    with open(ledger, "r+b") as opened:
        opened.seek((number - 1) * size)
        opened.write(b"\xff" * size)


def test_rotten_row_of_an_image_is_left_behind_and_the_image_found_again(path: Path) -> None:
    with Store.open(path) as store, store.ledger.transaction() as connection:
        connection.execute("UPDATE pins SET data_size = data_size + 1 WHERE name = 'a'")
    report = repair(path)
    assert report.ledger is not None
    assert report.ledger.named == ["b", "c"]
    (again,) = report.ledger.recovered
    with Store.open(path) as store:
        export_image(store, again, path.parent / "out.raw", force=True)
    assert (path.parent / "out.raw").read_bytes() == disk(path.parent, "a").read_bytes()
    assert_whole(path, "b", "c")


@pytest.mark.parametrize("table", ["pins", "removed_pins", "packs"])
def test_names_are_kept_when_a_table_is_not_defined_as_it_should_be(path: Path, table: str) -> None:
    with Store.open(path) as store:
        store.unpin("b", undeletable=True)
    ledger = path / "ledger.sqlite3"
    content = ledger.read_bytes()
    at = content.index(f"CREATE TABLE {table} (".encode())
    ledger.write_bytes(content[:at] + b"DREATE" + content[at + 6 :])
    report = repair(path)
    assert report.ledger is not None
    assert (report.ledger.named, report.ledger.recovered) == (["a", "c"], [])
    with Store.open(path) as store:
        store.undelete("b")
    assert_whole(path, "a", "b", "c")


@pytest.mark.parametrize(
    ("code", "expected"), [(sqlite3.SQLITE_FULL, NoSpace), (sqlite3.SQLITE_IOERR_READ, IoFailed)], ids=["full", "i/o"]
)
def test_disk_that_fails_is_not_taken_for_names_that_are_lost(
    path: Path, code: int, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage_page_of(path / "ledger.sqlite3", "packs")

    class Failing:
        """A connection to a database on a disk that fails."""

        def __init__(self, _database: object) -> None:
            pass

        def execute(self, _statement: str) -> None:
            error = sqlite3.OperationalError("fails")
            error.sqlite_errorcode = code
            raise error

        def close(self) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(ledger_rebuild, "connect", Failing)
        with pytest.raises(expected, match="a copy of the damaged ledger"):
            repair(path)
    report = repair(path)
    assert report.ledger is not None
    assert report.ledger.named == ["a", "b", "c"]
    assert_whole(path, "a", "b", "c")


def test_new_ledger_whose_log_stays_behind_is_not_put_in_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite brings the log into the database when it closes it, and does not say when that failed."""
    damage_page_of(path / "ledger.sqlite3", "packs")
    add_images, others = ledger_rebuild.add_images, list[sqlite3.Connection]()

    def add_images_while_it_is_read(*args: object) -> None:
        add_images(*args)  # type: ignore[arg-type]
        others.append(sqlite3.connect(next(path.glob("tmp/*/ledger.sqlite3"))))
        others[0].execute("BEGIN")
        others[0].execute("SELECT * FROM pins").fetchall()

    with monkeypatch.context() as patch:
        patch.setattr(ledger_rebuild, "add_images", add_images_while_it_is_read)
        with pytest.raises(IoFailed, match="could not be written"):
            repair(path)
    others[0].close()
    report = repair(path)
    assert report.ledger is not None
    assert report.ledger.named == ["a", "b", "c"]
    assert_whole(path, "a", "b", "c")


def test_lost_ledger_and_runs_and_a_damaged_chunk(path: Path) -> None:
    hurt_chunk(path, "a", 0)
    (path / "ledger.sqlite3").unlink()
    shutil.rmtree(path / "runs")
    (path / "runs").mkdir()
    report = repair(path, [donor(disk(path.parent, "a"))])
    assert report.ledger is not None
    assert (len(report.ledger.recovered), report.healed_chunks, report.hurt) == (3, 1, [])
    assert_whole(path)


def test_image_that_is_partly_collected_is_not_recovered(path: Path) -> None:
    pack = place_of(path, "b", 0)[0]
    assert pack == place_of(path, "a", -1)[0] != place_of(path, "b", -1)[0]
    (path / "ledger.sqlite3").unlink()
    pack.unlink()
    report = repair(path)
    assert report.ledger is not None
    assert len(report.ledger.recovered) == 1
    assert len(report.ledger.incomplete) == 1
    assert report.hurt == []
    assert_whole(path)


def test_ledger_is_not_rebuilt_while_others_are_at_work(path: Path) -> None:
    with Store.open(path) as store, store.lease("import"):
        (path / "ledger.sqlite3").rename(path / "elsewhere")
        with pytest.raises(StoreLocked, match="stop them first"):
            repair(path)
        (path / "elsewhere").rename(path / "ledger.sqlite3")
    assert repair(path).ledger is None


def test_another_stores_ledger_is_not_replaced(path: Path, tmp_path: Path) -> None:
    Store.create(tmp_path / "other").close()
    shutil.copy(tmp_path / "other" / "ledger.sqlite3", path / "ledger.sqlite3")
    with pytest.raises(StoreIncompatible, match="another store"):
        repair(path)
