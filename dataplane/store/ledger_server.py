"""A ledger in PostgreSQL, for a store whose service keeps its catalogue there.

SQLite lets one writer in at a time. So that the ledger need not reason about more, its writers here wait for each other
on one row, and see then what the one before has committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from dataplane.errors import Corrupt, IoFailed, NoSpace, StoreError, StoreIncompatible, StoreLocked, UsageError
from dataplane.hints import TYPE_CHECKING
from dataplane.store.sql import BUSY_TIMEOUT_S, IntegrityBroken, LedgerDatabase, SqlConnection, SqlCursor

if TYPE_CHECKING:
    from typing import Any

    import psycopg

CONNECT_TIMEOUT_S = 10


class LedgerServer(LedgerDatabase):
    """A database of a PostgreSQL server, for one store; the server's own durability settings hold."""

    def __init__(self, url: str) -> None:
        """Connect; raises UsageError for a URL that is none, IoFailed when the server does not answer."""
        check_postgres_url(url)
        try:
            import psycopg
        except ImportError as error:
            raise StoreIncompatible(
                "the ledger is in PostgreSQL, which needs the package psycopg: pip install 'dataplane[postgresql]'"
            ) from error
        self._psycopg = psycopg
        self._url = url
        self.name = f"the ledger in {without_password(url)}"
        self._connect()

    def _connect(self) -> None:
        with self.naming():
            self._raw: psycopg.Connection[Any] = self._psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                options=f"-c lock_timeout={int(BUSY_TIMEOUT_S * 1000)}",
            )

    @property
    def connection(self) -> SqlConnection:
        """The connection; one that the server dropped is made anew."""
        if self._raw.closed:
            self._connect()
        return PostgresConnection(self._raw)

    def begin_new(self) -> SqlConnection:
        """Begin; there is no row to wait on yet."""
        connection = self.connection
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        return connection

    def begin(self) -> SqlConnection:
        """Begin, and wait for the turn to write."""
        connection = self.begin_new()
        take_turn(connection)
        return connection

    def commit(self) -> None:
        """Commit."""
        self._raw.execute("COMMIT")

    def rollback(self) -> None:
        """Roll back, unless the connection is gone and the server has done so."""
        if not self._raw.closed and self._raw.info.transaction_status != self._psycopg.pq.TransactionStatus.IDLE:
            self._raw.execute("ROLLBACK")

    def lent(self, connection: Any) -> SqlConnection:
        """Return the connection, after waiting for the turn to write in its transaction."""
        if isinstance(connection, PostgresConnection):
            return connection
        if not isinstance(connection, self._psycopg.Connection):
            raise UsageError(f"{self.name} is not in the database of the connection that was lent")
        ours = PostgresConnection(connection)
        take_turn(ours)
        return ours

    @property
    def driver_errors(self) -> type[Exception]:
        """Everything that psycopg raises."""
        return self._psycopg.Error

    def translated(self, error: Exception) -> Exception:
        """Read the SQL state (PostgreSQL, appendix A)."""
        state = getattr(error, "sqlstate", None) or ""
        told = str(error).strip().splitlines()
        what = told[0] if told else type(error).__name__
        if state.startswith("23"):
            return IntegrityBroken(what)
        if state in ("40001", "40P01", "55P03"):
            return StoreLocked(f"{self.name} is busy with other writers: try again")
        if state == "42P07":
            return StoreError(f"{self.name} belongs to another store: each needs a database of its own")
        if state == "53100":
            return NoSpace(f"no space left while writing {self.name}: free space and try again")
        if state in ("42P01", "42703"):
            return Corrupt(f"{self.name} lacks what it must have ({what}): restore it from a backup")
        return IoFailed(f"{self.name} failed: {what}")

    def close(self) -> None:
        """Close the connection."""
        self._raw.close()


class PostgresConnection:
    """A psycopg connection that takes our statements."""

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self._raw = raw

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> SqlCursor:
        """Run one statement."""
        return self._raw.execute(numbered(statement), values)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> SqlCursor:
        """Run one statement for each row of values."""
        cursor = self._raw.cursor()
        cursor.executemany(numbered(statement), rows)
        return cursor


def numbered(statement: str) -> bytes:
    """Return a statement of ours with psycopg's marks; ours hold no question mark or percent sign otherwise."""
    return statement.replace("%", "%%").replace("?", "%s").encode()


def take_turn(connection: SqlConnection) -> None:
    """Wait for other writers of a ledger on PostgreSQL: one row stands for the lock that SQLite has on the file."""
    connection.execute("UPDATE ledger_meta SET value = value WHERE name = 'epoch'")


def check_postgres_url(url: str) -> None:
    """Raise UsageError unless `url` is one of a PostgreSQL database."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
        raise UsageError("a ledger elsewhere is named like postgresql://USER@HOST/DATABASE")


def without_password(url: str) -> str:
    """Return a database's URL as it may be shown: without password and options."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"
