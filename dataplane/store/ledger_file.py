"""The ledger in SQLite, a file in the store's folder: how every process opens it, and what its failures are called."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from dataplane.errors import Corrupt, IoFailed, NoSpace, StoreLocked, UsageError
from dataplane.hints import TYPE_CHECKING
from dataplane.store.layout import naming
from dataplane.store.reserve import Reserve
from dataplane.store.sql import BUSY_TIMEOUT_S, IntegrityBroken, LedgerDatabase, SqlConnection

if TYPE_CHECKING:
    from typing import Any

CANNOT_WRITE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
"""What SQLite says of a folder in which it may not make the files that go with a database in WAL mode."""


class LedgerFile(LedgerDatabase):
    """One connection to the file: explicit transactions, every commit durable."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises Corrupt, IoFailed or StoreLocked.

        Where the folder cannot be written, as on a medium that is mounted read-only, the database is read as a file
        that nobody changes; that fails with IoFailed when a log beside it holds commits that are not in that file.
        """
        self.name = f"ledger {path}"
        self._wrote = False
        self._reserve = Reserve(path)
        self._reserve.release_if_full()
        with self.naming():
            self._connection = self._open(path)

    def _open(self, path: Path) -> sqlite3.Connection:
        try:
            return open_database(str(path))
        except sqlite3.OperationalError as error:
            with naming(path, "opening"):  # a disk that is gone lets SQLite say the same
                if primary_code(error) not in CANNOT_WRITE or not path.exists():
                    raise
        self.can_write = False
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise IoFailed(f"{self.name} cannot be written, and {log.name} has to be: copy the store elsewhere")
        return open_database(f"{path.absolute().as_uri()}?immutable=1", uri=True)

    @property
    def connection(self) -> SqlConnection:
        """The one connection."""
        return self._connection

    def begin_new(self) -> SqlConnection:
        """Let readers and a writer work side by side, which the file remembers, and begin."""
        self._connection.execute("PRAGMA journal_mode=WAL")
        return self.begin()

    def begin(self) -> SqlConnection:
        """Begin, taking the write lock at once: reading first and writing later could only fail."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._wrote = True
        return self._connection

    def commit(self) -> None:
        """Commit, synchronously; or make sure as far as possible that the transaction never happened."""
        try:
            self._connection.execute("COMMIT")
        except BaseException:
            self.rollback()
            # A commit whose fsync failed may lie in the log, whole, and a recovery after a crash would believe it: the
            # next commit is written over it.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("UPDATE ledger_meta SET value = value WHERE name = 'epoch'")
            raise

    def rollback(self) -> None:
        """Roll back, unless SQLite has done so itself."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def lent(self, connection: Any) -> SqlConnection:
        """Return the connection: it is what our statements take."""
        if not isinstance(connection, sqlite3.Connection):
            raise UsageError(f"{self.name} is not in the database of the connection that was lent")
        return connection

    def check(self) -> None:
        """Let SQLite check its pages, and its indexes against the rows."""
        problems = [str(problem) for (problem,) in self._connection.execute("PRAGMA integrity_check(1)").fetchall()]
        if problems != ["ok"]:
            raise Corrupt(f"{self.name} is damaged ({problems[0].splitlines()[-1]}): restore it from a backup")

    def check_schema(self, statements: Sequence[str]) -> None:
        """Compare what the file says of its tables, which is text in it like any other, with what it should say.

        A type or a constraint that reads otherwise would go unnoticed until something is written.
        """
        found = schema_of(self._connection)
        for name, definition in schema_made_by(tuple(statements)).items():
            if found.get(name) != definition:
                raise Corrupt(f"{self.name} is damaged: {name} is not defined in it as it should be")

    @property
    def driver_errors(self) -> tuple[type[Exception], ...]:
        """Everything that sqlite3 raises about a database; its messages may quote bytes that are no text."""
        return (sqlite3.DatabaseError, UnicodeDecodeError)

    def translated(self, error: Exception) -> Exception:
        """Read SQLite's result code."""
        if isinstance(error, sqlite3.IntegrityError):
            return IntegrityBroken(str(error))
        if not isinstance(error, sqlite3.OperationalError):
            return Corrupt(f"{self.name} is damaged ({error}): restore it from a backup")
        code = primary_code(error)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreLocked(f"{self.name} stayed locked for {BUSY_TIMEOUT_S:.0f} s by another process")
        if code == sqlite3.SQLITE_FULL:
            return NoSpace(f"no space left while writing {self.name}: free space and try again")
        if code in (sqlite3.SQLITE_ERROR, 0):  # the driver's own errors have no code: text that cannot be decoded
            return Corrupt(f"{self.name} lacks what it must have ({error}): restore it from a backup")
        return IoFailed(f"{self.name} failed: {error}")

    def close(self) -> None:
        """Close the file; whoever wrote to it sees to the reserve."""
        self._connection.close()
        if self._wrote:
            self._reserve.restore()


@functools.cache
def schema_made_by(statements: tuple[str, ...]) -> dict[str, tuple[str, str, str | None]]:
    """Return (type, table, statement) of all that `statements` make, by name."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for statement in statements:
            connection.execute(statement)
        return schema_of(connection)


def schema_of(connection: sqlite3.Connection) -> dict[str, tuple[str, str, str | None]]:
    """Return (type, table, statement) of every table and index in a database, by name."""
    rows = connection.execute("SELECT name, type, tbl_name, sql FROM sqlite_master").fetchall()
    return {name: (type, table, statement) for name, type, table, statement in rows}


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code of an error, 0 when the driver itself raised it."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def open_database(address: str, *, uri: bool = False) -> sqlite3.Connection:
    """Return a connection whose commits are durable; raises the driver's errors."""
    connection = sqlite3.connect(
        address, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=uri
    )
    try:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA temp_store=MEMORY")  # confined processes may not make files elsewhere
    except (sqlite3.Error, UnicodeDecodeError):
        connection.close()
        raise
    return connection
