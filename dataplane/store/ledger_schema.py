"""The ledger's tables, version by version, and how a ledger of an earlier version is brought up to date.

A new ledger is made by taking every step from nothing, an old one by taking those it lacks: both end with the same
tables. A step that was part of a release never changes again; the last one may grow until it is released.
"""

from __future__ import annotations

from dataplane.errors import Corrupt, StoreIncompatible
from dataplane.store.pins import add_row_sums
from dataplane.store.sql import SqlConnection

VERSION_1 = (
    "CREATE TABLE ledger_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE packs (
        name TEXT PRIMARY KEY, size BIGINT NOT NULL, created_at BIGINT NOT NULL, verified_at BIGINT,
        condemned_epoch BIGINT, condemned_at BIGINT)""",
    "CREATE TABLE runs (name TEXT PRIMARY KEY, entries BIGINT NOT NULL, created_at BIGINT NOT NULL)",
    """CREATE TABLE pins (
        name TEXT PRIMARY KEY, root TEXT NOT NULL, domain TEXT NOT NULL, format TEXT NOT NULL,
        virtual_size BIGINT NOT NULL, data_size BIGINT NOT NULL, storage_size BIGINT NOT NULL,
        allocated_size BIGINT NOT NULL, chunks BIGINT NOT NULL, distinct_chunks BIGINT NOT NULL,
        created_at BIGINT NOT NULL)""",
    """CREATE TABLE removed_pins (
        name TEXT NOT NULL, root TEXT NOT NULL, domain TEXT NOT NULL, format TEXT NOT NULL,
        virtual_size BIGINT NOT NULL, data_size BIGINT NOT NULL, storage_size BIGINT NOT NULL,
        allocated_size BIGINT NOT NULL, chunks BIGINT NOT NULL, distinct_chunks BIGINT NOT NULL,
        created_at BIGINT NOT NULL, removed_at BIGINT NOT NULL, removal TEXT PRIMARY KEY)""",
    """CREATE TABLE leases (
        id TEXT PRIMARY KEY, purpose TEXT NOT NULL, root TEXT, domain TEXT, epoch BIGINT NOT NULL,
        beats BIGINT NOT NULL, created_at BIGINT NOT NULL)""",
)

COUNTS = (
    # Roots whose chunks are counted, and what each has to itself; `number` is what count files know it by.
    """CREATE TABLE counted_roots (
        root TEXT NOT NULL, domain TEXT NOT NULL, number BIGINT NOT NULL UNIQUE, unique_size BIGINT NOT NULL,
        unique_chunks BIGINT NOT NULL, PRIMARY KEY (root, domain))""",
    "CREATE TABLE count_files (name TEXT PRIMARY KEY, entries BIGINT NOT NULL, created_at BIGINT NOT NULL)",
)

ROW_SUMS = (
    # Filled by ``add_row_sums``.
    "ALTER TABLE pins ADD COLUMN row_sum TEXT",
    "ALTER TABLE removed_pins ADD COLUMN row_sum TEXT",
)

LOST = (
    # What a repair did not find again: the collector knows that these are in no run, and goes on.
    "CREATE TABLE lost_chunks (id TEXT PRIMARY KEY)",
)

CHECKPOINTS = (
    # What imports that are not done yet have stored of a source before byte `position` of its disk.
    """CREATE TABLE checkpoints (
        lease TEXT PRIMARY KEY, owner TEXT NOT NULL, source TEXT NOT NULL, domain TEXT NOT NULL, root TEXT NOT NULL,
        position BIGINT NOT NULL, saved_at BIGINT NOT NULL)""",
)

VERSION_2 = (*COUNTS, *ROW_SUMS, *LOST, *CHECKPOINTS)

COUNT_SUMS = (
    # What was counted is counted anew: without a checksum nobody could tell that it is still what it was.
    "DELETE FROM counted_roots",
    "DELETE FROM count_files",
    "DELETE FROM ledger_meta WHERE name IN ('counted_size', 'counted_chunks')",
    "ALTER TABLE counted_roots ADD COLUMN row_sum TEXT",
)

CHECKPOINT_SIZES = (
    # Null in rows from before.
    "ALTER TABLE checkpoints ADD COLUMN storage_size BIGINT",
)

MORE_ROW_SUMS = (
    # Filled by ``add_row_sums`` too. Of packs, those that are condemned have one.
    "ALTER TABLE checkpoints ADD COLUMN row_sum TEXT",
    "ALTER TABLE leases ADD COLUMN row_sum TEXT",
    "ALTER TABLE packs ADD COLUMN row_sum TEXT",
)

VERSION_3 = (*COUNT_SUMS, *CHECKPOINT_SIZES, *MORE_ROW_SUMS)

STEPS = (VERSION_1, VERSION_2, VERSION_3)
"""STEPS[i] turns a ledger of version i into one of version i + 1."""

SCHEMA_VERSION = len(STEPS)


def create_tables(connection: SqlConnection, store_id: str) -> None:
    """Make the tables of a new ledger, inside a transaction."""
    for step in STEPS:
        for statement in step:
            connection.execute(statement)
    rows = [("schema_version", str(SCHEMA_VERSION)), ("store_id", store_id), ("epoch", "0")]
    connection.executemany("INSERT INTO ledger_meta (name, value) VALUES (?, ?)", rows)


def read_version(connection: SqlConnection, name: str, store_id: str) -> int:
    """Return the schema version of the ledger called `name`.

    Raises StoreIncompatible when the version is newer than this program or the ledger is another store's, Corrupt when
    it is no version.
    """
    meta = dict(connection.execute("SELECT name, value FROM ledger_meta").fetchall())
    text = str(meta.get("schema_version"))
    if not text.isdecimal() or int(text) < 1:
        raise Corrupt(f"{name} has no schema version but {text!r}: restore it from a backup")
    if int(text) > SCHEMA_VERSION:
        raise StoreIncompatible(
            f"{name} has schema version {text}, this program knows versions up to {SCHEMA_VERSION}:"
            " use a matching release"
        )
    if meta.get("store_id") != store_id:
        raise StoreIncompatible(f"{name} belongs to another store")
    return int(text)


def take_steps(connection: SqlConnection, version: int) -> None:
    """Bring a ledger of an earlier `version` up to date, inside the transaction in which that version was read."""
    for step in STEPS[version:]:
        for statement in step:
            connection.execute(statement)
    if version < 2:
        add_row_sums(connection, "pins", "removed_pins")
    if version < 3:
        add_row_sums(connection, "checkpoints", "leases", "packs")
    connection.execute("UPDATE ledger_meta SET value = ? WHERE name = 'schema_version'", (str(SCHEMA_VERSION),))
