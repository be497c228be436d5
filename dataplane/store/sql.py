"""The database that holds a ledger: what ``ledger_file.py`` (SQLite) and ``ledger_server.py`` (PostgreSQL) both are.

Both are spoken to through their own drivers with one set of statements, written with question marks. What differs is
how to connect, how a transaction begins, and what the drivers' errors mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from dataplane.hints import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Any

BUSY_TIMEOUT_S = 30.0


class IntegrityBroken(Exception):
    """A statement would have broken a constraint; the transaction has to end."""


class SqlCursor(Protocol):
    """What a statement left behind."""

    @property
    def rowcount(self) -> int:
        """Rows that a change touched."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""


class SqlConnection(Protocol):
    """A connection inside a transaction. Statements take question marks, whatever the database."""

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> SqlCursor:
        """Run one statement."""

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> SqlCursor:
        """Run one statement for each row of values."""


class LedgerDatabase(ABC):
    """One connection to the database of a ledger; its owner makes sure that one thread uses it at a time."""

    name: str
    """What messages call it."""

    can_write: bool = True
    """Whether it can be written at all; False on a medium that is mounted read-only."""

    @property
    @abstractmethod
    def connection(self) -> SqlConnection:
        """What statements outside a transaction run on; it may be another one after a server dropped it."""

    @abstractmethod
    def begin_new(self) -> SqlConnection:
        """Begin the transaction that makes the tables of a new ledger, and return what it runs on."""

    @abstractmethod
    def begin(self) -> SqlConnection:
        """Begin a transaction that may write, return what it runs on; waits ``BUSY_TIMEOUT_S`` for other writers."""

    @abstractmethod
    def commit(self) -> None:
        """Make the transaction durable."""

    @abstractmethod
    def rollback(self) -> None:
        """Take the transaction back, if one is open."""

    @abstractmethod
    def lent(self, connection: Any) -> SqlConnection:
        """Return a driver's connection that a caller lends, with its transaction open, as one for our statements."""

    @abstractmethod
    def translated(self, error: Exception) -> Exception:
        """Return what a driver's error means: one of ours that names the ledger, or IntegrityBroken."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; a second call does nothing."""

    def check(self) -> None:
        """Raise Corrupt unless the database's own structures are in order, as far as it lets itself be asked."""

    def check_schema(self, statements: Sequence[str]) -> None:
        """Raise Corrupt unless the tables are those that `statements` make, as far as that may have changed."""

    @property
    @abstractmethod
    def driver_errors(self) -> type[Exception] | tuple[type[Exception], ...]:
        """The base of what the driver raises."""

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Turn the driver's errors into ours."""
        try:
            yield
        except self.driver_errors as error:
            raise self.translated(error) from error
