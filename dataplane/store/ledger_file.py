"""The ledger's file: how every process opens the database, and what its failures are called."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataplane.errors import Corrupt, IoFailed, NoSpace, StoreLocked

BUSY_TIMEOUT_S = 30.0

CANNOT_WRITE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
"""What SQLite says of a folder in which it may not make the files that go with a database in WAL mode."""


@contextmanager
def naming_ledger(path: Path) -> Iterator[None]:
    """Turn the driver's errors into ours, naming the ledger; a broken constraint passes, it is the caller's to read."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.OperationalError as error:
        code = primary_code(error)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreLocked(f"ledger {path} stayed locked for {BUSY_TIMEOUT_S:.0f} s by another process") from error
        if code == sqlite3.SQLITE_FULL:
            raise NoSpace(f"no space left while writing ledger {path}: free space and try again") from error
        if code == sqlite3.SQLITE_ERROR:
            raise Corrupt(f"ledger {path} lacks what it must have ({error}): restore it from a backup") from error
        raise IoFailed(f"ledger {path} failed: {error}") from error
    except sqlite3.DatabaseError as error:
        raise Corrupt(f"ledger {path} is damaged ({error}): restore it from a backup") from error


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code of an error, 0 when the driver itself raised it."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def connect(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Open the database as every process does: explicit transactions, every commit durable.

    Returns the connection, and whether it can write. Where the folder cannot be written, as on a medium that is mounted
    read-only, the database is read as a file that nobody changes; raises IoFailed when a log beside it holds commits
    that are not in that file.
    """
    with naming_ledger(path):
        try:
            return open_database(str(path)), True
        except sqlite3.OperationalError as error:
            if primary_code(error) not in CANNOT_WRITE or not path.exists():
                raise
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise IoFailed(f"ledger {path} cannot be written, and {log.name} has to be: copy the store elsewhere")
        return open_database(f"{path.absolute().as_uri()}?immutable=1", uri=True), False


def open_database(address: str, *, uri: bool = False) -> sqlite3.Connection:
    """Return a connection whose commits are durable; raises the driver's errors."""
    connection = sqlite3.connect(
        address, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=uri
    )
    try:
        connection.execute("PRAGMA synchronous=FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
