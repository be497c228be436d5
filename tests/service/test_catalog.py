"""The catalogue's SQL stays within what other databases have."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from service.catalog import operation_rows, schema
from service.catalog.database import ATTEMPTS_MAX, Database
from service.faults import Busy

PARTIAL = (
    *("images_name", "disks_name", "snapshots_name", "images_pooled"),
    *("operations_waiting", "operations_done", "operations_of_disk"),
)
POSTGRESQL: Any = postgresql.dialect


def test_tables_compile_for_postgresql() -> None:
    for table in schema.metadata.sorted_tables:
        sa.schema.CreateTable(table).compile(dialect=POSTGRESQL())
        for index in table.indexes:
            text = str(sa.schema.CreateIndex(index).compile(dialect=POSTGRESQL()))
            assert ("WHERE" in text) == (index.name in PARTIAL)


def test_claim_is_one_statement_on_postgresql() -> None:
    statements: list[str] = []

    class Recorder:
        def execute(self, statement: Any) -> Any:
            statements.append(str(statement.compile(dialect=POSTGRESQL())))
            return self

        def mappings(self) -> Any:
            return self

        def first(self) -> None:
            return None

    recorder: Any = Recorder()
    operation_rows.claim(recorder, owner="w", now_us=1, lease_us=1)
    assert len(statements) == 1
    assert statements[0].startswith("UPDATE operations SET")
    assert " RETURNING " in statements[0]


def test_conflict_is_retried_and_then_busy(tmp_path: Path) -> None:
    database = Database.at_path(tmp_path / "c.sqlite3")
    tries = []

    def work(tx: sa.Connection) -> None:
        tries.append(1)
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorname = "SQLITE_BUSY"
        raise sa.exc.OperationalError("BEGIN", {}, error)

    with pytest.raises(Busy):
        database.write(work)
    assert len(tries) == ATTEMPTS_MAX
    database.close()


def test_sqlite_is_durable_and_lets_readers_pass(tmp_path: Path) -> None:
    database = Database.at_path(tmp_path / "c.sqlite3")
    with database.read() as tx:
        found = [tx.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert found == ["wal", 2]
    database.close()
