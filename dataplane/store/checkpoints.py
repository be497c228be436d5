"""Checkpoints: what imports that are not done yet have stored so far, so that they can go on after a crash.

A checkpoint is a root like that of an image, whose disk reads as zeros from `position` on, and it keeps alive what it
names just as a pin does. Each belongs to a lease. As long as that is held nobody else touches it; then a restart of the
same import copies it under a lease of its own, in one transaction, so that there is no moment at which the collector
finds its chunks unused.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from dataplane.dataclass import dataclass, replace
from dataplane.store.layout import Layout
from dataplane.store.lease import Lease
from dataplane.store.ledger import Ledger
from dataplane.store.pins import CHECKPOINT_COLUMNS as COLUMNS
from dataplane.store.pins import insert_row, row_sum
from dataplane.store.sql import SqlConnection
from dataplane.store.workspace import is_abandoned

_NOT_HELD = "lease NOT IN (SELECT id FROM leases)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What an import has stored so far.

    `source` is a digest that names the version of its source, `owner` whatever the import's caller calls it, `position`
    the byte of the disk before which all is done. `saved_at` is in microseconds (UTC). `storage_size` is the stored
    bytes of the distinct chunks named by it, None in those that an earlier version has saved.
    """

    lease: str
    owner: str
    source: bytes
    domain: str
    root: bytes
    position: int
    saved_at: int
    storage_size: int | None = None


def save_checkpoint(connection: SqlConnection, checkpoint: Checkpoint) -> None:
    """Put a checkpoint in the place of the one that its lease has had, inside a transaction."""
    drop_checkpoint(connection, checkpoint.lease)
    values = (
        checkpoint.lease,
        checkpoint.owner,
        checkpoint.source.hex(),
        checkpoint.domain,
        checkpoint.root.hex(),
        checkpoint.position,
        checkpoint.saved_at,
        checkpoint.storage_size,
    )
    insert_row(connection, "checkpoints", COLUMNS, values)


def drop_checkpoint(connection: SqlConnection, lease: str) -> None:
    """Remove the checkpoint of a lease, if it has one, inside a transaction."""
    connection.execute("DELETE FROM checkpoints WHERE lease = ?", (lease,))


def forget_checkpoints(connection: SqlConnection, owner: str) -> None:
    """Remove all checkpoints of an owner, inside a transaction: their imports will not be started again."""
    connection.execute("DELETE FROM checkpoints WHERE owner = ?", (owner,))


def take_checkpoint(ledger: Ledger, lease: Lease, *, owner: str, source: bytes, domain: str) -> Checkpoint | None:
    """Return, as `lease`'s own, a copy of the checkpoint of this source that got furthest; None when there is none.

    It may be that of an import under way: what both go on from is immutable. What the same owner has left of imports
    that are gone is removed. A row that does not match its checksum counts for nothing: with another position an image
    would lack what lies between. Raises LeaseLost.
    """
    with ledger.transaction() as connection:
        lease.check(connection)
        rows = connection.execute(
            f"SELECT {', '.join(COLUMNS)}, row_sum FROM checkpoints WHERE source = ? AND domain = ?"  # noqa: S608
            " ORDER BY position DESC",
            (source.hex(), domain),
        ).fetchall()
        found = next((parsed(row) for row in rows if row_sum(row[:-1]) == row[-1]), None)
        connection.execute(
            f"DELETE FROM checkpoints WHERE source = ? AND domain = ? AND owner = ? AND {_NOT_HELD}",  # noqa: S608
            (source.hex(), domain, owner),
        )
        if found is None:
            return None
        taken = replace(found, lease=lease.id, owner=owner, saved_at=time.time_ns() // 1000)
        save_checkpoint(connection, taken)
    return taken


def checkpoints(ledger: Ledger) -> list[Checkpoint]:
    """Return every checkpoint there is, the oldest first."""
    if ledger.schema_version < 2:  # read where it cannot be written
        return []
    columns = [column if ledger.schema_version > 2 or column != "storage_size" else "NULL" for column in COLUMNS]
    rows = ledger.query(f"SELECT {', '.join(columns)} FROM checkpoints ORDER BY saved_at, lease")  # noqa: S608
    with ledger.parsing():
        return [parsed(row) for row in rows]


def parsed(row: Sequence[object]) -> Checkpoint:
    """Return the checkpoint of a row; raises ValueError."""
    lease, owner, source, domain, root, position, saved_at, storage_size = row[: len(COLUMNS)]
    return Checkpoint(
        lease=str(lease),
        owner=str(owner),
        source=bytes.fromhex(str(source)),
        domain=str(domain),
        root=bytes.fromhex(str(root)),
        position=int(str(position)),
        saved_at=int(str(saved_at)),
        storage_size=None if storage_size is None else int(str(storage_size)),
    )


def expired_checkpoints(layout: Layout, ledger: Ledger, saved_before: int) -> int:
    """Return how many checkpoints ``forget_expired`` would forget once the rows of dead leases are gone."""
    expired = [found for found in checkpoints(ledger) if found.saved_at <= saved_before]
    return sum(is_abandoned(layout.temporary / found.lease) for found in expired)


def forget_expired(ledger: Ledger, saved_before: int) -> int:
    """Forget checkpoints that no lease holds and that were saved at or before a time (microseconds); return how many.

    The rows of dead leases have to be gone already. A clock that jumps costs work done again, never anything alive.
    """
    statement = f"DELETE FROM checkpoints WHERE saved_at <= ? AND {_NOT_HELD}"  # noqa: S608
    with ledger.transaction() as connection:
        return connection.execute(statement, (saved_before,)).rowcount


def forget_all(ledger: Ledger) -> int:
    """Forget every checkpoint; return how many. Imports at work save theirs again."""
    with ledger.transaction() as connection:
        return connection.execute("DELETE FROM checkpoints").rowcount
