"""Bits that flip in the ledger where SQLite itself does not look: values, and the text that defines the tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.errors import Corrupt
from dataplane.store.checkpoints import checkpoints
from dataplane.store.lease import lease_rows
from dataplane.store.statistics import store_sizes
from dataplane.store.store import Store
from dataplane.upkeep.derived import count_files
from dataplane.upkeep.gc import collect
from dataplane.upkeep.repair import repair
from dataplane.upkeep.scrub import scrub
from tests.disks import KIB, disk_bytes, write_sparse
from tests.faults.scripts import bring

CHECKPOINT = "INSERT INTO checkpoints VALUES ('a', '', '0x', '', '0x', 1, 1, 1, '')"
LEASE = "INSERT INTO leases VALUES ('a', 'export', '0x', '', 1, 1, 1, NULL)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty store."""
    Store.create(tmp_path / "store").close()
    return tmp_path / "store"


def change(path: Path, *statements: str) -> None:
    """Change a ledger in a way that nothing in the product would."""
    with sqlite3.connect(path / "ledger.sqlite3") as connection:
        connection.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("part", "otherwise"),
    [("name TEXT PRIMARY KEY", "name TEXU PRIMARY KEY"), ("size BIGINT NOT NULL", "size BIGINT NOT\tNULL")],
)
def test_table_that_is_defined_otherwise_is_noticed(path: Path, part: str, otherwise: str) -> None:
    """A name of digits with one letter e among them would be stored as a number in the first case."""
    with Store.open(path) as store:
        store.ledger.check()
    change(path, f"UPDATE sqlite_master SET sql = replace(sql, '{part}', '{otherwise}') WHERE name = 'packs'")
    with Store.open(path) as store, pytest.raises(Corrupt, match="packs is not defined in it as it should be"):
        scrub(store)


@pytest.mark.parametrize(
    ("statement", "read"),
    [
        ("INSERT INTO packs (name, size, created_at) VALUES ('0x', 1, 1)", lambda store: store.ledger.packs()),
        ("INSERT INTO runs VALUES ('0x', 1, 1)", lambda store: store.ledger.run_sizes()),
        ("INSERT INTO lost_chunks VALUES ('00')", lambda store: store.ledger.lost_chunks()),
        ("INSERT INTO count_files VALUES ('0x', 1, 1)", count_files),
        (LEASE, lambda store: store.ledger.roots()),
        (LEASE, lambda store: lease_rows(store.ledger)),
        (CHECKPOINT, lambda store: checkpoints(store.ledger)),
    ],
)
def test_value_that_is_no_name_is_damage(path: Path, statement: str, read: Callable[[Store], object]) -> None:
    change(path, statement)
    with Store.open(path) as store, pytest.raises(Corrupt, match=r"ledger.sqlite3 is damaged"):
        read(store)


@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("leases", "UPDATE leases SET epoch = epoch + 1"),
        ("leases", "UPDATE leases SET root = '00'"),
        ("packs", "UPDATE packs SET condemned_epoch = 0"),
    ],
)
def test_what_keeps_chunks_from_being_collected_is_checked(path: Path, table: str, statement: str) -> None:
    """With another epoch a pack would look older than work that relies on it, or that work younger."""
    with Store.open(path) as store:
        with store.ledger.transaction() as connection:
            store.ledger.add_objects(connection, [(bytes(32), 1)], [])
        store.ledger.condemn([bytes(32)])
        with store.lease("export"):
            store.ledger.check()
            with store.ledger.transaction() as connection:
                connection.execute(statement)
            with pytest.raises(Corrupt, match=f"in {table} does not match its checksum"):
                collect(store)


def test_pack_that_is_half_condemned_is_damage(path: Path) -> None:
    with Store.open(path) as store:
        with store.ledger.transaction() as connection:
            store.ledger.add_objects(connection, [(bytes(32), 1)], [])
            connection.execute("UPDATE packs SET condemned_at = 0")
        with pytest.raises(Corrupt, match="is half condemned"):
            store.ledger.check()


def test_number_of_entries_is_checked(path: Path) -> None:
    with Store.open(path) as store:
        bring(store, "disk", write_sparse(path.parent / "disk", disk_bytes(64 * KIB)))
        store_sizes(store)
    change(path, "UPDATE runs SET entries = entries + 1", "UPDATE count_files SET entries = entries + 1")
    with Store.open(path) as store:
        assert len([problem for problem in scrub(store).run_damage if "entries, and ledger" in problem]) == 2
    assert repair(path).rebuilt_runs == 1
    with Store.open(path) as store:
        assert scrub(store).run_damage == []
