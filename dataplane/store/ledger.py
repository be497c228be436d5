"""The ledger: the SQL tables that say what is live, the only thing in a store that changes.

It speaks to the database through Python's own driver rather than a toolkit, because every verb opens it and start-up
time counts. A caller that keeps tables of its own in the same database passes its driver's connection, and what the
ledger does becomes part of the caller's transaction.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from dataplane.dataclass import replace
from dataplane.errors import AlreadyExists, Corrupt, IoFailed, NoSpace, NotFound, StoreLocked
from dataplane.hints import TYPE_CHECKING
from dataplane.store.format import ID_SIZE
from dataplane.store.ledger_schema import SCHEMA_VERSION, STEPS, create_tables, read_version, take_steps
from dataplane.store.pins import (
    PIN_COLUMNS,
    REMOVED_COLUMNS,
    SUMMED,
    Pin,
    checked_pin,
    insert_row,
    pin_values,
    row_sum,
    unchecked_pin,
)
from dataplane.store.sql import IntegrityBroken, LedgerDatabase, SqlConnection

if TYPE_CHECKING:
    from typing import Any


class Ledger:
    """An open ledger. Safe for use by several threads of one process, and by several processes at once."""

    def __init__(self, database: LedgerDatabase, store_id: str) -> None:
        self._store_id = store_id
        self.name = database.name
        self.schema_version = SCHEMA_VERSION
        self._database = database
        self._lock = threading.RLock()

    @classmethod
    def create(cls, database: LedgerDatabase, store_id: str) -> Ledger:
        """Create the tables of a new store."""
        ledger = cls(database, store_id)
        with ledger._transaction(database.begin_new) as connection:
            create_tables(connection, store_id)
        return ledger

    @classmethod
    def open(cls, database: LedgerDatabase, store_id: str, *, may_write: bool = True) -> Ledger:
        """Open the ledger of the store with this id, and bring it up to date unless `may_write` is false.

        A ledger of an earlier version that cannot be written now is read as it is; `schema_version` tells. Raises
        StoreIncompatible, Corrupt or IoFailed.
        """
        ledger = cls(database, store_id)
        try:
            with ledger.naming():
                ledger.schema_version = read_version(database.connection, ledger.name, store_id)
        except BaseException:
            database.close()
            raise
        if ledger.schema_version < SCHEMA_VERSION and may_write and database.can_write:
            ledger._bring_up_to_date()
        return ledger

    def _bring_up_to_date(self) -> None:
        with contextlib.suppress(IoFailed, NoSpace, StoreLocked):  # a full disk is no reason not to read
            self._take_missing_steps()

    def _take_missing_steps(self) -> None:
        with self._transaction(self._database.begin) as connection:
            version = read_version(connection, self.name, self._store_id)  # another process may have been here
            take_steps(connection, version)
        self.schema_version = SCHEMA_VERSION

    def check(self) -> None:
        """Read all of the database and raise Corrupt unless its pages, indexes, schema and rows are in order.

        A row that got lost is missed by its index; what is wrong inside a row that matters is told by its own checksum.
        """
        with self._lock, self.naming():
            self._database.check()
        if self.schema_version == SCHEMA_VERSION:
            with self._lock, self.naming():
                self._database.check_schema([statement for step in STEPS for statement in step])
            for table, columns in SUMMED.items():
                for *row, found in self.query(f"SELECT {', '.join(columns)}, row_sum FROM {table}"):  # noqa: S608
                    if found is None and table == "packs":  # those that are not condemned have none
                        continue
                    if found != row_sum(row):
                        raise Corrupt(f"{self.name} is damaged: {row[0]!r} in {table} does not match its checksum")
            half = self.query("SELECT name FROM packs WHERE (condemned_epoch IS NULL) <> (condemned_at IS NULL)")
            if half:
                raise Corrupt(f"{self.name} is damaged: pack {half[0][0]} is half condemned")
        self.pins()
        self.removed_pins()

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def naming(self) -> AbstractContextManager[None]:
        """Turn the driver's errors into ours, naming the ledger."""
        return self._database.naming()

    @contextmanager
    def parsing(self) -> Iterator[None]:
        """Turn values that cannot be what they should into Corrupt, naming the ledger."""
        try:
            yield
        except (ValueError, TypeError) as error:
            raise Corrupt(f"{self.name} is damaged ({error}): restore it from a backup") from error

    @contextmanager
    def transaction(self, lent: Any = None) -> Iterator[SqlConnection]:
        """Run statements as one transaction; inside the caller's when its driver's connection is `lent`."""
        if lent is not None:
            with self.naming():
                yield self._database.lent(lent)
            return
        if self.schema_version < SCHEMA_VERSION:  # opened when that could not be written
            self._take_missing_steps()
        with self._transaction(self._database.begin) as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: Callable[[], SqlConnection]) -> Iterator[SqlConnection]:
        with self._lock, self.naming():
            try:
                yield begin()
                self._database.commit()
            except BaseException:
                self._database.rollback()
                raise

    def query(self, statement: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Return the rows of a SELECT."""
        with self._lock, self.naming():
            return self._database.connection.execute(statement, values).fetchall()

    # ------------------------------------------------------------------------------------------ what is live
    def packs(self) -> dict[bytes, int]:
        """Return the size in bytes of every live pack, by name."""
        rows = self.query("SELECT name, size FROM packs")
        with self.parsing():
            return {object_name(name): int(str(size)) for name, size in rows}

    def condemned_packs(self) -> dict[bytes, tuple[int, int]]:
        """Return (epoch, time in microseconds) of the condemnation of every pack that is condemned, by name."""
        rows = self.query("SELECT name, condemned_epoch, condemned_at FROM packs WHERE condemned_epoch IS NOT NULL")
        with self.parsing():
            return {object_name(name): (int(str(epoch)), int(str(at))) for name, epoch, at in rows}

    def packs_to_verify(self) -> list[bytes]:
        """Return the names of the live packs, those first that were never verified, then the longest ago."""
        rows = self.query("SELECT name FROM packs ORDER BY COALESCE(verified_at, 0), name")
        with self.parsing():
            return [object_name(name) for (name,) in rows]

    def mark_verified(self, packs: Iterable[bytes]) -> None:
        """Note that every chunk of these packs was read again just now."""
        now = time.time_ns() // 1000
        with self.transaction() as connection:
            connection.executemany(
                "UPDATE packs SET verified_at = ? WHERE name = ?", [(now, name.hex()) for name in packs]
            )

    def runs(self) -> list[bytes]:
        """Return the names of the live runs, the largest first: most look-ups end there."""
        rows = self.query("SELECT name FROM runs ORDER BY entries DESC, name")
        with self.parsing():
            return [object_name(name) for (name,) in rows]

    def run_sizes(self) -> dict[bytes, int]:
        """Return the entries of every live run, by name."""
        rows = self.query("SELECT name, entries FROM runs")
        with self.parsing():
            return {object_name(name): int(str(count)) for name, count in rows}

    def pins(self) -> list[Pin]:
        """Return every pin, by name."""
        return self._pins("pins", PIN_COLUMNS, "ORDER BY name")

    def pin(self, name: str) -> Pin:
        """Return one pin; raises NotFound."""
        found = self._pins("pins", PIN_COLUMNS, "WHERE name = ?", name)
        if not found:
            raise NotFound(f"the store has no image named {name!r}")
        return found[0]

    def _pins(self, table: str, columns: Sequence[str], rest: str, *values: object) -> list[Pin]:
        return [pin for pin, _ in self._pin_rows(table, columns, rest, *values)]

    def _pin_rows(
        self, table: str, columns: Sequence[str], rest: str, *values: object
    ) -> list[tuple[Pin, Sequence[object]]]:
        """Return (pin, row) of chosen rows of a table of pins, each checked."""
        if self.schema_version < 2:
            rows = self.query(f"SELECT {', '.join(columns)} FROM {table} {rest}", values)  # noqa: S608
            with self.parsing():
                return [(unchecked_pin(row), row) for row in rows]
        rows = self.query(f"SELECT {', '.join(columns)}, row_sum FROM {table} {rest}", values)  # noqa: S608
        return [(checked_pin(row, self.name), row) for row in rows]

    def has_pin(self, name: str) -> bool:
        """Return whether a name is taken."""
        return bool(self.query("SELECT 1 FROM pins WHERE name = ?", (name,)))

    def lost_chunks(self) -> set[bytes]:
        """Return the ids of what the last repair found missing, with no copy to be had."""
        if self.schema_version < 2:
            return set()
        rows = self.query("SELECT id FROM lost_chunks")
        with self.parsing():
            return {object_name(id) for (id,) in rows}

    def domains(self) -> list[str]:
        """Return the dedup domains that images, removed images, leases and checkpoints are in."""
        return sorted({domain for _, domain in self.roots()})

    def roots(self) -> set[tuple[bytes, str]]:
        """Return (root, domain) of all that is kept: images, removed ones, what leases read, and checkpoints.

        One statement, and so one state of the ledger: what moves from one table to another meanwhile is not missed.
        """
        tables = ["pins", "removed_pins", "leases"] + (["checkpoints"] if self.schema_version > 1 else [])
        rows = self.query(" UNION ".join(f"SELECT root, domain FROM {table}" for table in tables))  # noqa: S608
        with self.parsing():
            return {(object_name(root), str(domain)) for root, domain in rows if root is not None}

    # ------------------------------------------------------------------------------------------ changes
    def add_objects(
        self, connection: SqlConnection, packs: Iterable[tuple[bytes, int]], runs: Iterable[tuple[bytes, int]]
    ) -> None:
        """Make packs (name, size in bytes) and runs (name, entries) live, inside a transaction."""
        now = time.time_ns() // 1000
        with self.naming():
            connection.executemany(
                "INSERT INTO packs (name, size, created_at) VALUES (?, ?, ?)",
                [(name.hex(), size, now) for name, size in packs],
            )
            connection.executemany(
                "INSERT INTO runs (name, entries, created_at) VALUES (?, ?, ?)",
                [(name.hex(), entries, now) for name, entries in runs],
            )

    def remove_objects(self, connection: SqlConnection, packs: Iterable[bytes], runs: Iterable[bytes]) -> None:
        """Let packs and runs be live no longer, inside a transaction."""
        with self.naming():
            connection.executemany("DELETE FROM packs WHERE name = ?", [(name.hex(),) for name in packs])
            connection.executemany("DELETE FROM runs WHERE name = ?", [(name.hex(),) for name in runs])

    def condemn(self, packs: Iterable[bytes], connection: Any = None) -> None:
        """Condemn packs at a new epoch: work that begins from now on does not see them."""
        now = time.time_ns() // 1000
        with self.transaction(connection) as transaction:
            # Above every epoch that anybody noted: a damaged counter must not make older work look newer.
            transaction.execute(
                "UPDATE ledger_meta SET value = CAST(1 + (SELECT MAX(epoch) FROM ("
                "SELECT CAST(value AS BIGINT) AS epoch FROM ledger_meta WHERE name = 'epoch'"
                " UNION SELECT epoch FROM leases UNION SELECT condemned_epoch FROM packs) AS known) AS TEXT)"
                " WHERE name = 'epoch'"
            )
            epoch = self.epoch(transaction)
            rows = [(name.hex(), epoch, now) for name in packs]
            transaction.executemany(
                "UPDATE packs SET condemned_epoch = ?, condemned_at = ?, row_sum = ? WHERE name = ?",
                [(epoch, now, row_sum(row), row[0]) for row in rows],
            )

    def epoch(self, connection: SqlConnection) -> int:
        """Return the collector's epoch, inside a transaction; one that is no number any more counts as 0."""
        row = connection.execute("SELECT CAST(value AS BIGINT) FROM ledger_meta WHERE name = 'epoch'").fetchone()
        if row is None:
            raise Corrupt(f"{self.name} is damaged: it has no epoch")
        return int(row[0])

    def revive(self, packs: Iterable[bytes]) -> None:
        """Take the condemnation of packs back."""
        with self.transaction() as connection:
            connection.executemany(
                "UPDATE packs SET condemned_epoch = NULL, condemned_at = NULL, row_sum = NULL WHERE name = ?",
                [(name.hex(),) for name in packs],
            )

    def forget_removed(self, removed_before: int) -> int:
        """Forget images removed at or before a time (microseconds); return how many."""
        with self.transaction() as connection:
            return connection.execute("DELETE FROM removed_pins WHERE removed_at <= ?", (removed_before,)).rowcount

    def add_pin(self, connection: SqlConnection, pin: Pin) -> None:
        """Pin a root, inside a transaction; raises AlreadyExists when the name is taken."""
        try:
            with self.naming():
                insert_row(connection, "pins", PIN_COLUMNS, pin_values(pin))
        except IntegrityBroken as error:
            raise AlreadyExists(f"an image named {pin.name!r} is already in the store: choose another name") from error

    def copy_pin(self, connection: SqlConnection, name: str, also: str) -> None:
        """Pin the root of `name` as `also` too, inside a transaction; raises NotFound, or AlreadyExists."""
        with self.naming():
            row = connection.execute(
                f"SELECT {', '.join(PIN_COLUMNS)}, row_sum FROM pins WHERE name = ?",  # noqa: S608
                (name,),
            ).fetchone()
        if row is None:
            raise NotFound(f"the store has no image named {name!r}")
        self.add_pin(connection, replace(checked_pin(row, self.name), name=also, created_at=time.time_ns() // 1000))

    def add_removed_pin(self, connection: SqlConnection, pin: Pin, removed_at: int) -> None:
        """Note an image as removed at a time (microseconds), where undelete finds it; inside a transaction."""
        with self.naming():
            insert_row(connection, "removed_pins", REMOVED_COLUMNS, [*pin_values(pin), removed_at, os.urandom(8).hex()])

    def remove_pin(self, connection: SqlConnection, name: str, *, undeletable: bool) -> None:
        """Remove a pin, inside a transaction; `undeletable` keeps it where undelete finds it. Raises NotFound."""
        with self.naming():
            if undeletable:
                row = connection.execute(
                    f"SELECT {', '.join(PIN_COLUMNS)}, row_sum FROM pins WHERE name = ?",  # noqa: S608
                    (name,),
                ).fetchone()
                if row is not None:
                    self.add_removed_pin(connection, checked_pin(row, self.name), time.time_ns() // 1000)
            removed = connection.execute("DELETE FROM pins WHERE name = ?", (name,)).rowcount
        if not removed:
            raise NotFound(f"the store has no image named {name!r}")

    def restore_pin(self, name: str) -> Pin:
        """Pin again what was removed last under a name; raises NotFound, or AlreadyExists when the name is taken."""
        with self.transaction() as connection:
            row = connection.execute(
                f"SELECT {', '.join(REMOVED_COLUMNS)}, row_sum FROM removed_pins WHERE name = ?"  # noqa: S608
                " ORDER BY removed_at DESC, removal LIMIT 1",
                (name,),
            ).fetchone()
            if row is None:
                raise NotFound(f"no removed image named {name!r} is kept: gc forgets them after the undelete period")
            pin = checked_pin(row, self.name)
            self.add_pin(connection, pin)
            connection.execute("DELETE FROM removed_pins WHERE removal = ?", (row[REMOVED_COLUMNS.index("removal")],))
        return pin

    def removed_pins(self) -> list[tuple[Pin, int]]:
        """Return (pin, when it was removed in microseconds) of what undelete could bring back."""
        rows = self._pin_rows("removed_pins", REMOVED_COLUMNS, "ORDER BY removed_at")
        at = REMOVED_COLUMNS.index("removed_at")
        return [(pin, int(str(row[at]))) for pin, row in rows]


def object_name(text: object) -> bytes:
    """Return the name of a pack or run, or the id of a chunk, from a row; raises ValueError."""
    name = bytes.fromhex(str(text))
    if len(name) != ID_SIZE:
        raise ValueError(f"{text!r} does not name a pack, run or chunk")
    return name
