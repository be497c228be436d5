"""Connections to the catalogue: short transactions, the right locks or isolation, bounded retries."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from dataplane import Store
from dataplane.errors import IoFailed, NoSpace, StoreLocked
from service.catalog.group_commit import Change, GroupCommit
from service.catalog.lookup import Lookup
from service.faults import Busy

T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0
LOCK_LOOK_MS = 1
"""How long a writer sleeps before it looks again whether another process has let go of SQLite's write lock.

SQLite itself soon sleeps 25 ms and more, many times as long as most of those who hold the lock.
"""

ATTEMPTS_MAX = 8
_SERIALIZATION_STATES = ("40001", "40P01")  # SQL states: serialization failure, deadlock


class Database:
    """A pool of connections to one catalogue. Safe to share between threads, never between processes."""

    def __init__(self, url: sa.URL) -> None:
        options: dict[str, Any] = {"pool_size": 8, "max_overflow": 24, "pool_timeout": BUSY_TIMEOUT_S}
        if url.get_backend_name() == "postgresql":
            # Serializable: what a change has read still holds when it commits, or it runs again.
            options |= {"isolation_level": "SERIALIZABLE", "pool_pre_ping": True}
        self.engine = sa.create_engine(url, **options)
        self._reading: dict[str, Any] = {"reads_only": True}
        looking = self._reading
        if self.engine.dialect.name == "postgresql":
            self._reading = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            looking = {"isolation_level": "AUTOCOMMIT"}
        self.lookup = Lookup(self.engine, looking)
        self._writer: GroupCommit | None = None
        if self.engine.dialect.name == "sqlite":
            self._writer = GroupCommit(self._commit)
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)

    @classmethod
    def beside(cls, store: Store) -> Database:
        """Open the database that holds the store's ledger: one transaction can change both."""
        if store.ledger_url is None:
            return cls.at_path(store.ledger_path)
        return cls.at_url(store.ledger_url)

    @classmethod
    def at_url(cls, url: str) -> Database:
        """Open a PostgreSQL database, named as its own programs do: ``postgresql://USER@HOST/DATABASE``."""
        return cls(sa.make_url(url).set(drivername="postgresql+psycopg"))

    @classmethod
    def at_path(cls, path: Path) -> Database:
        """Open the SQLite file at `path`, the one that holds the store's ledger."""
        return cls(sa.URL.create("sqlite", database=str(path)))

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection whose statements see one state of the catalogue; waits for no writer."""
        with self.engine.connect().execution_options(**self._reading) as connection, connection.begin():
            yield connection

    def write(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Run `work` in one transaction and return what it returns; commits unless it raises.

        `work` runs again when the database reports a conflict, and on SQLite in another thread, so it must have no
        effect outside the transaction and not begin another one. What is not `durable` is seen by everybody at once,
        and may be lost with the power, never with the process. Raises Busy after a bounded number of conflicts, NoSpace
        or IoFailed when the disk is to blame.
        """
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - spreads retries, guards nothing
            try:
                if self._writer is not None:
                    result: T = self._writer.run(work, durable=durable)
                    return result
                with self.engine.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                _raise_if_disk_failed(error)
                if not _is_conflict(error):
                    raise
            except StoreLocked:  # the ledger's statements, in this transaction, met those of another one
                if self.engine.dialect.name == "sqlite":
                    raise
        raise Busy("the catalogue is busy: try again")

    def close(self) -> None:
        """Close idle connections, after the changes that are waiting."""
        if self._writer is not None:
            self._writer.close()
        self.lookup.close()
        self.engine.dispose()

    def _commit(self, changes: Sequence[Change]) -> None:
        """Run changes in one transaction, each of them whole or not at all."""
        durable = any(change.durable for change in changes)
        with self.engine.connect().execution_options(durable=durable) as connection, connection.begin():
            for change in changes:
                connection.exec_driver_sql("SAVEPOINT change")  # begin_nested() compiles such statements each time
                try:
                    change.result = change.work(connection)
                except DBAPIError as error:
                    if _ends_transaction(error):
                        raise
                    change.error = error
                except Exception as error:  # the caller's to handle: it waits for it in its own thread
                    change.error = error
                if change.error is not None:
                    connection.exec_driver_sql("ROLLBACK TO change")
                connection.exec_driver_sql("RELEASE change")


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun below, not guessed by the driver
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    # What undoes the changes since a savepoint goes to a file in /tmp once it is 64 KiB, which confined workers may not
    # make: the operation would end with "unable to open database file".
    cursor.execute("PRAGMA temp_store = MEMORY")
    cursor.execute("PRAGMA secure_delete = ON")  # a sealed source leaves no trace once its operation is done
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("reads_only", False):
        connection.exec_driver_sql("BEGIN")
        return
    connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if options.get('durable', True) else 'NORMAL'}")
    _take_write_lock(connection)


def _take_write_lock(connection: Connection) -> None:
    """Begin a transaction that writes: one that reads first and then writes could only fail when others write too."""
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {LOCK_LOOK_MS}")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except DBAPIError as error:
                if not _is_conflict(error) or time.monotonic() >= deadline_s:
                    raise
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")


def _raise_if_disk_failed(error: DBAPIError) -> None:
    name = getattr(error.orig, "sqlite_errorname", "") or ""
    if name.startswith("SQLITE_FULL") or getattr(error.orig, "sqlstate", None) == "53100":
        raise NoSpace("no space left while the catalogue was written: free space and try again") from error
    if name.startswith("SQLITE_IOERR"):
        raise IoFailed("the catalogue cannot be written: the operating system reports an I/O error") from error


def _ends_transaction(error: DBAPIError) -> bool:
    """Say whether SQLite may have rolled back more than the statement that failed."""
    name = getattr(error.orig, "sqlite_errorname", "") or ""
    return name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_NOMEM", "SQLITE_CORRUPT", "SQLITE_INTERRUPT"))


def _is_conflict(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    name = getattr(error.orig, "sqlite_errorname", "") or ""
    return state in _SERIALIZATION_STATES or name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
