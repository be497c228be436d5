"""Changes that share a transaction: each is whole or not at all, whatever becomes of its neighbours."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dataplane.errors import NoSpace, NotFound
from service.catalog.database import Database
from service.faults import Busy

TABLE = sa.Table("t", sa.MetaData(), sa.Column("n", sa.Integer, primary_key=True))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database.at_path(tmp_path / "c.sqlite3")
    made.write(lambda tx: TABLE.create(tx))
    yield made
    made.close()


def numbers(database: Database) -> list[int]:
    with database.read() as tx:
        return list(tx.execute(sa.select(TABLE.c.n).order_by(TABLE.c.n)).scalars())


def at_once(database: Database, works: list[Any]) -> list[Any]:
    """Run changes that all wait while another one holds the writer; return results and errors."""
    held, release = threading.Event(), threading.Event()

    def hold(_tx: sa.Connection) -> None:
        held.set()
        release.wait(10)

    def run(work: Any) -> Any:
        try:
            return database.write(work)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(works) + 1) as pool:
        holding = pool.submit(database.write, hold)
        held.wait(10)
        waiting = [pool.submit(run, work) for work in works]
        writer: Any = database._writer
        while len(writer._waiting) < len(works):
            threading.Event().wait(0.001)
        release.set()
        holding.result()
        return [one.result() for one in waiting]


def insert(number: int, *, then: Exception | None = None) -> Any:
    def work(tx: sa.Connection) -> int:
        tx.execute(sa.insert(TABLE).values(n=number))
        if then is not None:
            raise then
        return number

    return work


def test_changes_that_wait_share_a_commit(database: Database) -> None:
    commits: list[int] = []
    sa.event.listen(database.engine, "commit", lambda _connection: commits.append(1))
    assert at_once(database, [insert(index) for index in range(10)]) == list(range(10))
    assert len(commits) == 2  # of the change that held the writer, and of the others
    assert numbers(database) == list(range(10))


def test_change_that_fails_takes_nothing_along(database: Database) -> None:
    results = at_once(database, [insert(1), insert(2, then=NotFound("no")), insert(1), insert(3)])
    assert (results[0], results[3]) == (1, 3)
    assert isinstance(results[1], NotFound)
    assert isinstance(results[2], sa.exc.IntegrityError)
    assert numbers(database) == [1, 3]


def test_full_disk_fails_all_that_share_its_transaction(database: Database) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorname = "SQLITE_FULL"
    full = sa.exc.OperationalError("INSERT", {}, error)
    results = at_once(database, [insert(1), insert(2, then=full), insert(3)])
    assert [type(result) for result in results] == [NoSpace] * 3
    assert numbers(database) == []
    assert database.write(insert(4)) == 4


def test_only_what_need_not_last_is_written_without_waiting_for_the_disk(database: Database) -> None:
    def synchronous(tx: sa.Connection) -> Any:
        return tx.exec_driver_sql("PRAGMA synchronous").scalar()

    assert database.write(synchronous, durable=False) == 1
    assert database.write(synchronous) == 2
    assert database.write(synchronous, durable=False) == 1


def test_change_within_a_change_is_refused_and_so_is_one_after_the_end(database: Database) -> None:
    with pytest.raises(RuntimeError, match="begin another"):
        database.write(lambda _tx: database.write(insert(1)))
    database.close()
    database.close()
    with pytest.raises(RuntimeError, match="closed"):
        database.write(insert(1))


def test_lock_of_another_process_is_waited_for(database: Database, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "c.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(database.write, lambda tx: tx.execute(sa.insert(TABLE).values(n=1)))
        time.sleep(0.2)
        assert not waiting.done()
        other.execute("COMMIT")
        waiting.result(30)
    other.close()
    assert numbers(database) == [1]


def test_lock_that_is_never_let_go_is_busy(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.catalog.database.BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr("service.catalog.database.ATTEMPTS_MAX", 2)
    other = sqlite3.connect(tmp_path / "c.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy):
        database.write(lambda tx: tx.execute(sa.insert(TABLE).values(n=1)))
    other.close()
    database.write(lambda tx: tx.execute(sa.insert(TABLE).values(n=2)))
    assert numbers(database) == [2]


def temporary_files() -> list[str]:
    """Return SQLite's temporary files that this process has open; they have no names any more."""
    links = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [link for link in links if "etilqs" in link]


def test_large_change_makes_no_file_elsewhere(database: Database) -> None:
    """Workers are confined to their folders, and undoing takes more than SQLite keeps in memory by itself."""
    database.write(lambda tx: tx.execute(sa.insert(TABLE), [{"n": number} for number in range(100_000)]))

    def work(tx: sa.Connection) -> list[str]:
        tx.execute(sa.delete(TABLE).where(TABLE.c.n % 2 == 0))
        return temporary_files()

    assert database.write(work) == []
    assert len(numbers(database)) == 50_000
