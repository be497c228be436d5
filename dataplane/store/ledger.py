"""The ledger: the SQL tables that say what is live, the only thing in a store that changes.

It speaks to the database through Python's own driver rather than a toolkit, because every verb opens it and start-up
time counts. A caller that keeps tables of its own in the same database passes its driver's connection, and what the
ledger does becomes part of the caller's transaction.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from typing import Any

from dataplane.errors import AlreadyExists, IoFailed, NoSpace, NotFound, StoreLocked
from dataplane.store.ledger_schema import SCHEMA_VERSION, create_tables, read_version, take_steps
from dataplane.store.sql import IntegrityBroken, LedgerDatabase, SqlConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A name that keeps a root alive, with what is known of the image. Sizes in bytes, time in microseconds (UTC)."""

    name: str
    root: bytes
    domain: str
    format: str
    virtual_size: int
    data_size: int
    storage_size: int
    allocated_size: int
    chunks: int
    distinct_chunks: int
    created_at: int


PIN_COLUMNS = tuple(field.name for field in fields(Pin))


class Ledger:
    """An open ledger. Safe for use by several threads of one process, and by several processes at once."""

    def __init__(self, database: LedgerDatabase) -> None:
        self.name = database.name
        self.schema_version = SCHEMA_VERSION
        self._database = database
        self._lock = threading.RLock()

    @classmethod
    def create(cls, database: LedgerDatabase, store_id: str) -> Ledger:
        """Create the tables of a new store."""
        ledger = cls(database)
        with ledger._transaction(database.begin_new) as connection:
            create_tables(connection, store_id)
        return ledger

    @classmethod
    def open(cls, database: LedgerDatabase, store_id: str, *, may_write: bool = True) -> Ledger:
        """Open the ledger of the store with this id, and bring it up to date unless `may_write` is false.

        A ledger of an earlier version that cannot be written now is read as it is; `schema_version` tells. Raises
        StoreIncompatible, Corrupt or IoFailed.
        """
        ledger = cls(database)
        with ledger.naming():
            ledger.schema_version = read_version(database.connection, ledger.name, store_id)
        if ledger.schema_version < SCHEMA_VERSION and may_write and database.can_write:
            ledger._bring_up_to_date(store_id)
        return ledger

    def _bring_up_to_date(self, store_id: str) -> None:
        with contextlib.suppress(IoFailed, NoSpace, StoreLocked):  # a full disk is no reason not to read
            with self.transaction() as connection:
                version = read_version(connection, self.name, store_id)  # another process may have been here
                take_steps(connection, version)
            self.schema_version = SCHEMA_VERSION

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def naming(self) -> AbstractContextManager[None]:
        """Turn the driver's errors into ours, naming the ledger."""
        return self._database.naming()

    @contextmanager
    def transaction(self, lent: Any = None) -> Iterator[SqlConnection]:
        """Run statements as one transaction; inside the caller's when its driver's connection is `lent`."""
        if lent is not None:
            with self.naming():
                yield self._database.lent(lent)
            return
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
        return {bytes.fromhex(str(name)): int(str(size)) for name, size in self.query("SELECT name, size FROM packs")}

    def condemned_packs(self) -> dict[bytes, tuple[int, int]]:
        """Return (epoch, time in microseconds) of the condemnation of every pack that is condemned, by name."""
        rows = self.query("SELECT name, condemned_epoch, condemned_at FROM packs WHERE condemned_epoch IS NOT NULL")
        return {bytes.fromhex(str(name)): (int(str(epoch)), int(str(at))) for name, epoch, at in rows}

    def packs_to_verify(self) -> list[bytes]:
        """Return the names of the live packs, those first that were never verified, then the longest ago."""
        rows = self.query("SELECT name FROM packs ORDER BY COALESCE(verified_at, 0), name")
        return [bytes.fromhex(str(name)) for (name,) in rows]

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
        return [bytes.fromhex(str(name)) for (name,) in rows]

    def pins(self) -> list[Pin]:
        """Return every pin, by name."""
        return [make_pin(row) for row in self.query(f"SELECT {', '.join(PIN_COLUMNS)} FROM pins ORDER BY name")]  # noqa: S608

    def pin(self, name: str) -> Pin:
        """Return one pin; raises NotFound."""
        rows = self.query(f"SELECT {', '.join(PIN_COLUMNS)} FROM pins WHERE name = ?", (name,))  # noqa: S608
        if not rows:
            raise NotFound(f"the store has no image named {name!r}")
        return make_pin(rows[0])

    def has_pin(self, name: str) -> bool:
        """Return whether a name is taken."""
        return bool(self.query("SELECT 1 FROM pins WHERE name = ?", (name,)))

    def domains(self) -> list[str]:
        """Return the dedup domains that images, removed images and leases are in."""
        rows = self.query(
            "SELECT domain FROM pins UNION SELECT domain FROM removed_pins"
            " UNION SELECT domain FROM leases WHERE domain IS NOT NULL ORDER BY 1"
        )
        return [str(domain) for (domain,) in rows]

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
            transaction.execute(
                "UPDATE ledger_meta SET value = CAST(CAST(value AS BIGINT) + 1 AS TEXT) WHERE name = 'epoch'"
            )
            transaction.executemany(
                "UPDATE packs SET condemned_at = ?, condemned_epoch ="
                " (SELECT CAST(value AS BIGINT) FROM ledger_meta WHERE name = 'epoch') WHERE name = ?",
                [(now, name.hex()) for name in packs],
            )

    def revive(self, packs: Iterable[bytes]) -> None:
        """Take the condemnation of packs back."""
        with self.transaction() as connection:
            connection.executemany(
                "UPDATE packs SET condemned_epoch = NULL, condemned_at = NULL WHERE name = ?",
                [(name.hex(),) for name in packs],
            )

    def forget_removed(self, removed_before: int) -> int:
        """Forget images removed at or before a time (microseconds); return how many."""
        with self.transaction() as connection:
            return connection.execute("DELETE FROM removed_pins WHERE removed_at <= ?", (removed_before,)).rowcount

    def add_pin(self, connection: SqlConnection, pin: Pin) -> None:
        """Pin a root, inside a transaction; raises AlreadyExists when the name is taken."""
        values = [getattr(pin, column) for column in PIN_COLUMNS]
        values[PIN_COLUMNS.index("root")] = pin.root.hex()
        marks = ", ".join("?" * len(values))
        try:
            with self.naming():
                connection.execute(f"INSERT INTO pins ({', '.join(PIN_COLUMNS)}) VALUES ({marks})", values)  # noqa: S608
        except IntegrityBroken as error:
            raise AlreadyExists(f"an image named {pin.name!r} is already in the store: choose another name") from error

    def copy_pin(self, connection: SqlConnection, name: str, also: str) -> None:
        """Pin the root of `name` as `also` too, inside a transaction; raises NotFound, or AlreadyExists."""
        copied = ", ".join(column for column in PIN_COLUMNS if column not in ("name", "created_at"))
        try:
            with self.naming():
                made = connection.execute(
                    f"INSERT INTO pins (name, created_at, {copied})"  # noqa: S608
                    f" SELECT CAST(? AS TEXT), CAST(? AS BIGINT), {copied} FROM pins WHERE name = ?",
                    (also, time.time_ns() // 1000, name),
                ).rowcount
        except IntegrityBroken as error:
            raise AlreadyExists(f"an image named {also!r} is already in the store: choose another name") from error
        if not made:
            raise NotFound(f"the store has no image named {name!r}")

    def remove_pin(self, connection: SqlConnection, name: str, *, undeletable: bool) -> None:
        """Remove a pin, inside a transaction; `undeletable` keeps it where undelete finds it. Raises NotFound."""
        columns = ", ".join(PIN_COLUMNS)
        with self.naming():
            if undeletable:
                connection.execute(
                    f"INSERT INTO removed_pins ({columns}, removed_at, removal)"  # noqa: S608
                    f" SELECT {columns}, ?, ? FROM pins WHERE name = ?",
                    (time.time_ns() // 1000, secrets.token_hex(8), name),
                )
            removed = connection.execute("DELETE FROM pins WHERE name = ?", (name,)).rowcount
        if not removed:
            raise NotFound(f"the store has no image named {name!r}")

    def restore_pin(self, name: str) -> Pin:
        """Pin again what was removed last under a name; raises NotFound, or AlreadyExists when the name is taken."""
        with self.transaction() as connection:
            row = connection.execute(
                f"SELECT {', '.join(PIN_COLUMNS)}, removal FROM removed_pins WHERE name = ?"  # noqa: S608
                " ORDER BY removed_at DESC, removal LIMIT 1",
                (name,),
            ).fetchone()
            if row is None:
                raise NotFound(f"no removed image named {name!r} is kept: gc forgets them after the undelete period")
            pin = make_pin(row[:-1])
            self.add_pin(connection, pin)
            connection.execute("DELETE FROM removed_pins WHERE removal = ?", (row[-1],))
        return pin

    def removed_pins(self) -> list[tuple[Pin, int]]:
        """Return (pin, when it was removed in microseconds) of what undelete could bring back."""
        rows = self.query(f"SELECT {', '.join(PIN_COLUMNS)}, removed_at FROM removed_pins ORDER BY removed_at")  # noqa: S608
        return [(make_pin(row[:-1]), int(str(row[-1]))) for row in rows]


def make_pin(row: Sequence[object]) -> Pin:
    """Return the pin of a row in the order of PIN_COLUMNS."""
    values = dict(zip(PIN_COLUMNS, row, strict=True))
    values["root"] = bytes.fromhex(str(values["root"]))
    return Pin(**values)  # type: ignore[arg-type]
