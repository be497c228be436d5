"""One row by its key: a single statement sees one state by itself, so no transaction is begun and ended around it.

The calls that come most often, Get of an image and polls of an operation, are this and little else. SQLite answers in
microseconds, less than SQLAlchemy takes to check out a connection and to run a statement. There the statement, compiled
once, goes to the driver on connections that are kept for it, and only when something was committed since the row was
read there: SQLite says that in a quarter of the time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar, cast

import sqlalchemy as sa

KEY = "key"
"""The one parameter of a statement."""

ROWS_MAX = 512
"""Rows of a statement that are remembered together with what was made of them; the largest take some 20 KiB."""

READER_ROWS_MAX = 128
"""Rows that one connection knows to be unchanged; there may be as many connections as threads."""

T = TypeVar("T")
Row = Mapping[Any, Any]
Statement = sa.Select[Any]


class Lookup:
    """Runs statements that find at most one row. Safe to share between threads."""

    def __init__(self, engine: sa.Engine, options: Mapping[str, Any]) -> None:
        """`options` are those of a connection that only reads; for PostgreSQL they say that it commits by itself."""
        self._engine = engine
        self._options = dict(options)
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._compiled: dict[Statement, _Compiled] = {}
        self._idle: list[_Reader] = []  # a list's methods are atomic; at most one for each thread that reads
        self._closed = False

    def first(self, statement: Statement, key: str, make: Callable[[Row], T]) -> T | None:
        """Return what `make` makes of the row of `key`, by names of columns; None when there is no row.

        `statement` and `make` are made once and belong together. What `make` returns is not to be changed: it is given
        again as long as the row is the same.
        """
        if self._is_sqlite:
            try:
                return cast(T | None, self._directly(statement, key, make))
            except sqlite3.Error:  # once more, the way that gives errors their usual types
                pass
        with self._engine.connect().execution_options(**self._options) as connection, connection.begin():
            row = connection.execute(statement, {KEY: key}).mappings().first()
        return make(row) if row is not None else None

    def close(self) -> None:
        """Close idle connections, and those in use as soon as they are not."""
        self._closed = True
        while self._idle:
            self._idle.pop().connection.close()

    def _directly(self, statement: Statement, key: str, make: Callable[[Row], Any]) -> Any:
        compiled = self._compiled.get(statement)
        if compiled is None:
            compiled = self._compiled[statement] = _Compiled(statement, self._engine.dialect, make)
        try:
            reader = self._idle.pop()
        except IndexError:
            reader = _Reader(self._open())
        try:
            found = reader.first(compiled, key)
        except BaseException:
            reader.connection.close()
            raise
        self._idle.append(reader)
        if self._closed:
            self.close()
        return found

    def _open(self) -> sqlite3.Connection:
        pooled = self._engine.raw_connection()
        connection = cast(sqlite3.Connection, pooled.driver_connection)
        pooled.detach()  # from the pool: it is kept here
        return connection


class _Reader:
    """A connection of SQLite, in use by one thread at a time, and the rows that it has read since the last commit."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._version: list[tuple[int]] = []
        self._found: dict[tuple[_Compiled, str], Any] = {}

    def first(self, compiled: _Compiled, key: str) -> Any:
        """Return what is made of the row of `key`, or None."""
        # The number changes with every commit of others, also of other processes; this connection commits nothing.
        version = self.connection.execute("PRAGMA data_version").fetchall()
        if version != self._version or len(self._found) >= READER_ROWS_MAX:
            self._found.clear()
            self._version = version
        found = self._found.get((compiled, key))
        if found is None:
            # All rows, not the first: a statement that has not come to its end holds on to the state it reads.
            rows = self.connection.execute(compiled.sql, (key,)).fetchall()
            if rows:
                found = self._found[compiled, key] = compiled.made(rows[0])
        return found


class _Compiled:
    """A statement as SQLite's driver takes it, and what makes values of its columns."""

    def __init__(self, statement: Statement, dialect: sa.Dialect, make: Callable[[Row], Any]) -> None:
        self.sql = str(statement.compile(dialect=dialect))
        self._names = tuple(column.key or "" for column in statement.selected_columns)
        makers = ((column.key or "", _maker(column.type, dialect)) for column in statement.selected_columns)
        self._makers = tuple((name, maker) for name, maker in makers if maker is not None)
        self._make = make
        # By what the row holds, all of it, so nothing has to be forgotten when a row changes.
        self.made = lru_cache(maxsize=ROWS_MAX)(self._made)

    def _made(self, values: tuple[Any, ...]) -> Any:
        row = dict(zip(self._names, values, strict=True))
        for name, maker in self._makers:  # the types that SQLAlchemy gives them
            row[name] = maker(row[name])
        return self._make(row)


def _maker(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> Callable[[Any], Any] | None:
    return kind.dialect_impl(dialect).result_processor(dialect, None)
