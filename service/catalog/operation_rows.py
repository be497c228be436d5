"""Statements over the table of operations. Whoever changes a running one proves its epoch in the same statement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.catalog.schema import operations
from service.model import Json, Operation, OperationKind

_NOT_DONE = operations.c.done.is_(sa.false())
_FIELDS = tuple(field.name for field in fields(Operation))


def insert(tx: Connection, operation: Operation) -> None:
    """Add an operation; one that is not done waits for a worker."""
    values = {name: getattr(operation, name) for name in _FIELDS}
    tx.execute(sa.insert(operations).values(lease_owner="", lease_until_us=0, **values))


def get(tx: Connection, operation_id: str) -> Operation | None:
    """Return the operation with this id, or None."""
    row = tx.execute(sa.select(operations).where(operations.c.id == operation_id)).mappings().first()
    return _operation(row) if row is not None else None


def creating(tx: Connection, image_id: str) -> Operation | None:
    """Return the unfinished operation that makes this image, or None."""
    wanted = sa.select(operations).where(operations.c.image_id == image_id, _NOT_DONE)
    row = tx.execute(wanted.limit(1)).mappings().first()
    return _operation(row) if row is not None else None


def any_waiting(tx: Connection, *, now_us: int) -> bool:
    """Say whether some operation has nobody working on it: a cheap look before the write that a claim is."""
    wanted = sa.select(operations.c.id).where(_NOT_DONE, operations.c.lease_until_us < now_us).limit(1)
    return tx.execute(wanted).first() is not None


def claim(tx: Connection, *, owner: str, now_us: int, lease_us: int) -> Operation | None:
    """Take the oldest operation that nobody works on, or whose worker stopped renewing its lease; None when none."""
    oldest = (
        sa.select(operations.c.id)
        .where(_NOT_DONE, operations.c.lease_until_us < now_us)
        .order_by(operations.c.created_at_us, operations.c.id)
        .limit(1)
        .scalar_subquery()
    )
    taken = (
        sa.update(operations)
        # The lease is checked again on the row itself: another worker may have taken it since the subquery ran.
        .where(operations.c.id == oldest, _NOT_DONE, operations.c.lease_until_us < now_us)
        .values(
            lease_owner=owner,
            lease_until_us=now_us + lease_us,
            epoch=operations.c.epoch + 1,
            attempts=operations.c.attempts + 1,
            modified_at_us=now_us,
        )
        .returning(*operations.c)
    )
    row = tx.execute(taken).mappings().first()
    return _operation(row) if row is not None else None


def heartbeat(
    tx: Connection, operation_id: str, *, epoch: int, now_us: int, lease_us: int, progress: Json
) -> bool | None:
    """Extend the lease and note progress. Returns whether a cancel was asked for; None when the epoch moved on."""
    beat = (
        sa.update(operations)
        .where(operations.c.id == operation_id, operations.c.epoch == epoch, _NOT_DONE)
        .values(lease_until_us=now_us + lease_us, modified_at_us=now_us, progress=progress)
        .returning(operations.c.cancel_requested)
    )
    row = tx.execute(beat).first()
    return bool(row[0]) if row is not None else None


def finish(
    tx: Connection,
    operation_id: str,
    *,
    epoch: int,
    now_us: int,
    error: bytes | None = None,
    response: bytes | None = None,
    progress: Json | None = None,
) -> bool:
    """End the operation with exactly one of error and response; say whether its epoch was still this one.

    A response is refused, and False returned, when a cancel was asked for meanwhile.
    """
    if (error is None) == (response is None):
        raise ValueError("an operation ends with exactly one of error and response")
    mine = [operations.c.id == operation_id, operations.c.epoch == epoch, _NOT_DONE]
    if response is not None:
        mine.append(operations.c.cancel_requested.is_(sa.false()))
    values: dict[str, Any] = {"progress": progress} if progress is not None else {}
    ended = (
        sa.update(operations)
        .where(*mine)
        .values(
            done=True, error=error, response=response, source=None, lease_until_us=0, modified_at_us=now_us, **values
        )
    )
    return tx.execute(ended).rowcount == 1


def request_cancel(tx: Connection, operation_id: str, *, now_us: int) -> Operation | None:
    """Ask whoever works on the operation to stop; return the operation, or None when there is none to stop."""
    asked = (
        sa.update(operations)
        .where(operations.c.id == operation_id, _NOT_DONE)
        .values(cancel_requested=True, modified_at_us=now_us)
        .returning(*operations.c)
    )
    row = tx.execute(asked).mappings().first()
    return _operation(row) if row is not None else None


def fence_idle(tx: Connection, operation_id: str, *, now_us: int) -> int | None:
    """Raise the epoch of an operation that nobody holds and return it; None when a worker holds it or it is done."""
    fenced = (
        sa.update(operations)
        .where(operations.c.id == operation_id, _NOT_DONE, operations.c.lease_until_us < now_us)
        .values(epoch=operations.c.epoch + 1)
        .returning(operations.c.epoch)
    )
    row = tx.execute(fenced).first()
    return int(row[0]) if row is not None else None


def release(tx: Connection, operation_id: str, *, epoch: int) -> None:
    """Give an unfinished operation back; it does not count as an attempt."""
    back = (
        sa.update(operations)
        .where(operations.c.id == operation_id, operations.c.epoch == epoch, _NOT_DONE)
        .values(lease_owner="", lease_until_us=0, attempts=operations.c.attempts - 1, progress=sa.null())
    )
    tx.execute(back)


def expire_leases(tx: Connection, *, owner: str) -> int:
    """End the leases of a worker that is known to be dead; return how many there were."""
    ended = sa.update(operations).where(operations.c.lease_owner == owner, _NOT_DONE).values(lease_until_us=0)
    return tx.execute(ended).rowcount


def _operation(row: Mapping[Any, Any]) -> Operation:
    values = {name: row[name] for name in _FIELDS}
    return Operation(**values | {"kind": OperationKind(row["kind"])})
