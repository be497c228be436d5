"""Pins as rows of the ledger: their columns, and the checksums that they and other rows carry.

Databases do not check what they read (SQLite's pages have no checksums), and a pin is what no other copy tells: which
root a name stands for, when it was removed, what its sizes are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from dataplane.dataclass import dataclass
from dataplane.engine.scan import xxh3
from dataplane.errors import Corrupt
from dataplane.store.sql import SqlConnection


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


PIN_COLUMNS = Pin.__slots__
REMOVED_COLUMNS = (*PIN_COLUMNS, "removed_at", "removal")
CHECKPOINT_COLUMNS = ("lease", "owner", "source", "domain", "root", "position", "saved_at", "storage_size")
LEASE_COLUMNS = ("id", "purpose", "root", "domain", "epoch", "created_at")
CONDEMNED_COLUMNS = ("name", "condemned_epoch", "condemned_at")

SUMMED = {
    "pins": PIN_COLUMNS,
    "removed_pins": REMOVED_COLUMNS,
    "checkpoints": CHECKPOINT_COLUMNS,
    "leases": LEASE_COLUMNS,
    "packs": CONDEMNED_COLUMNS,
}
"""What the checksum of a row covers, by table: whatever decides what an image is, or whether its chunks may go."""


def pin_values(pin: Pin) -> list[object]:
    """Return the values of a pin's row, in the order of PIN_COLUMNS."""
    values = [getattr(pin, column) for column in PIN_COLUMNS]
    values[PIN_COLUMNS.index("root")] = pin.root.hex()
    return values


def row_sum(values: Sequence[object]) -> str:
    """Return the checksum of a row: the XXH3-128 of its other values as a JSON list, in hexadecimal."""
    return xxh3(json.dumps(list(values), separators=(",", ":"), default=repr).encode()).hex()


def checked_pin(row: Sequence[object], ledger: str) -> Pin:
    """Return the pin of a row whose last column is the checksum of the others; raises Corrupt naming `ledger`."""
    if row_sum(row[:-1]) != row[-1]:
        raise Corrupt(f"{ledger} is damaged: its row of image {row[0]!r} does not match its checksum")
    return unchecked_pin(row)


def unchecked_pin(row: Sequence[object]) -> Pin:
    """Return the pin of a row in a ledger of version 1, which has no checksums."""
    values = dict(zip(PIN_COLUMNS, row[: len(PIN_COLUMNS)], strict=True))
    values["root"] = bytes.fromhex(str(values["root"]))
    return Pin(**values)  # type: ignore[arg-type]


def insert_row(connection: SqlConnection, table: str, columns: Sequence[str], values: Sequence[object]) -> None:
    """Insert a row with its checksum."""
    marks = ", ".join("?" * (len(columns) + 1))
    connection.execute(
        f"INSERT INTO {table} ({', '.join(columns)}, row_sum) VALUES ({marks})",  # noqa: S608 - names of ours
        [*values, row_sum(values)],
    )


def add_row_sums(connection: SqlConnection, *tables: str) -> None:
    """Give rows of a ledger of an earlier version the checksums that they have not had, inside a transaction."""
    for table in tables:
        columns = SUMMED[table]
        rows = connection.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()  # noqa: S608
        key = "removal" if table == "removed_pins" else columns[0]
        connection.executemany(
            f"UPDATE {table} SET row_sum = ? WHERE {key} = ?",  # noqa: S608
            [(row_sum(row), row[columns.index(key)]) for row in rows if not (table == "packs" and row[1] is None)],
        )
