"""Statements over the table of operations. Whoever changes a running one proves its epoch in the same statement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.catalog.lookup import KEY, Lookup
from service.catalog.schema import operations, request_keys
from service.model import PARKED, Json, Operation, OperationKind

_NOT_DONE = operations.c.done.is_(sa.false())
_FIELDS = tuple(field.name for field in fields(Operation))
_BY_ID = sa.select(operations).where(operations.c.id == sa.bindparam(KEY))
_INSERT = sa.insert(operations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a worker learns when it renews its lease."""

    cancel_requested: bool
    has_fresh_source: bool


def insert(tx: Connection, operation: Operation) -> None:
    """Add an operation; one that is not done waits for a worker."""
    values = {name: getattr(operation, name) for name in _FIELDS}
    tx.execute(_INSERT, values | {"lease_until_us": 0, "claimed_at_us": 0})


def get(tx: Connection, operation_id: str) -> Operation | None:
    """Return the operation with this id, or None."""
    row = tx.execute(sa.select(operations).where(operations.c.id == operation_id)).mappings().first()
    return _operation(row) if row is not None else None


def look_up(lookup: Lookup, operation_id: str) -> Operation | None:
    """Return the operation with this id, or None, as it is at this moment and outside any transaction."""
    return lookup.first(_BY_ID, operation_id, _operation)


def creating(tx: Connection, resource_id: str) -> Operation | None:
    """Return the unfinished operation that makes this image, disk or snapshot, or None."""
    wanted = sa.select(operations).where(operations.c.resource_id == resource_id, _NOT_DONE)
    row = tx.execute(wanted.limit(1)).mappings().first()
    return _operation(row) if row is not None else None


def reading_disk(tx: Connection, disk_id: str) -> Operation | None:
    """Return the unfinished operation that makes a snapshot or an image of this disk, or None."""
    wanted = sa.select(operations).where(operations.c.disk_id == disk_id, _NOT_DONE)
    row = tx.execute(wanted.limit(1)).mappings().first()
    return _operation(row) if row is not None else None


def of_resource(tx: Connection, resource_id: str, *, after: tuple[int, str] | None, limit: int) -> list[Operation]:
    """Return up to `limit` operations of a resource, newest first, from the first one older than `after`."""
    wanted = sa.select(operations).where(operations.c.resource_id == resource_id)
    if after is not None:
        time_us, last_id = after
        same_time = sa.and_(operations.c.created_at_us == time_us, operations.c.id < last_id)
        wanted = wanted.where(sa.or_(operations.c.created_at_us < time_us, same_time))
    wanted = wanted.order_by(operations.c.created_at_us.desc(), operations.c.id.desc()).limit(limit)
    return [_operation(row) for row in tx.execute(wanted).mappings()]


def count_unfinished(tx: Connection, folder_id: str) -> int:
    """Return how many operations of a folder are not done."""
    counted = sa.select(sa.func.count()).where(operations.c.folder_id == folder_id, _NOT_DONE)
    return int(tx.execute(counted).scalar_one())


def any_waiting(tx: Connection, *, now_us: int) -> bool:
    """Say whether some operation has nobody working on it: a cheap look before the write that a claim is."""
    wanted = sa.select(operations.c.id).where(_NOT_DONE, operations.c.lease_until_us < now_us).limit(1)
    return tx.execute(wanted).first() is not None


def folders_in_turn(now_us: int) -> sa.Select[Any]:
    """Select the folders with waiting operations, and how many those are, in the order in which they are served.

    The folder that most workers work for comes last; among equals the one that was served longest ago comes first.
    """
    running, served = operations.alias("running"), operations.alias("served")
    at_work = (
        sa.select(sa.func.count())
        .where(
            running.c.folder_id == operations.c.folder_id,
            running.c.done.is_(sa.false()),
            running.c.lease_until_us >= now_us,
            running.c.lease_owner != PARKED,
        )
        .correlate(operations)
        .scalar_subquery()
    )
    last_served = (
        sa.select(sa.func.max(served.c.claimed_at_us))
        .where(served.c.folder_id == operations.c.folder_id)
        .correlate(operations)
        .scalar_subquery()
    )
    return (
        sa.select(operations.c.folder_id, sa.func.count().label("waiting"))
        .where(_NOT_DONE, operations.c.lease_until_us < now_us)
        .group_by(operations.c.folder_id)
        .order_by(at_work, last_served, sa.func.min(operations.c.created_at_us), operations.c.folder_id)
    )


def waiting_before(tx: Connection, operation: Operation, *, now_us: int) -> int:
    """Return how many operations of its own folder wait in front of this one."""
    older = sa.or_(
        operations.c.created_at_us < operation.created_at_us,
        sa.and_(operations.c.created_at_us == operation.created_at_us, operations.c.id < operation.id),
    )
    mine = (operations.c.folder_id == operation.folder_id, _NOT_DONE, operations.c.lease_until_us < now_us)
    return int(tx.execute(sa.select(sa.func.count()).where(*mine, older)).scalar_one())


def is_waiting(tx: Connection, operation_id: str, *, now_us: int) -> bool:
    """Say whether nobody works on the operation, which is not done."""
    wanted = sa.select(operations.c.id).where(
        operations.c.id == operation_id, _NOT_DONE, operations.c.lease_until_us < now_us
    )
    return tx.execute(wanted).first() is not None


def claim(tx: Connection, *, owner: str, now_us: int, lease_us: int) -> Operation | None:
    """Take an operation that nobody works on, or whose worker stopped renewing its lease; None when there is none.

    Folders take turns; within one the oldest operation comes first.
    """
    turn = folders_in_turn(now_us).with_only_columns(operations.c.folder_id).limit(1).scalar_subquery()
    waiting = operations.alias("waiting")
    oldest = (
        sa.select(waiting.c.id)
        .where(waiting.c.folder_id == turn, waiting.c.done.is_(sa.false()), waiting.c.lease_until_us < now_us)
        .order_by(waiting.c.created_at_us, waiting.c.id)
        .limit(1)
        .scalar_subquery()
    )
    abandoned = sa.and_(operations.c.lease_owner == PARKED, operations.c.fresh_source.is_(None))
    taken = (
        sa.update(operations)
        # The lease is checked again on the row itself: another worker may have taken it since the subquery ran.
        .where(operations.c.id == oldest, _NOT_DONE, operations.c.lease_until_us < now_us)
        .values(
            lease_owner=owner,
            # Nobody gave a fresh URL in time: from now on it is as if the expired one had never led anywhere.
            source_version=sa.case((abandoned, sa.null()), else_=operations.c.source_version),
            lease_until_us=now_us + lease_us,
            epoch=operations.c.epoch + 1,
            attempts=operations.c.attempts + 1,
            modified_at_us=now_us,
            claimed_at_us=now_us,
        )
        .returning(*operations.c)
    )
    row = tx.execute(taken).mappings().first()
    return _operation(row) if row is not None else None


def heartbeat(
    tx: Connection, operation_id: str, *, epoch: int, now_us: int, lease_us: int, progress: Json
) -> Beat | None:
    """Extend the lease and note progress. Returns what the worker should know; None when the epoch moved on."""
    beat = (
        sa.update(operations)
        .where(operations.c.id == operation_id, operations.c.epoch == epoch, _NOT_DONE)
        .values(lease_until_us=now_us + lease_us, modified_at_us=now_us, progress=progress)
        .returning(operations.c.cancel_requested, operations.c.fresh_source)
    )
    row = tx.execute(beat).first()
    return Beat(cancel_requested=bool(row[0]), has_fresh_source=row[1] is not None) if row is not None else None


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
            done=True,
            error=error,
            response=response,
            source=None,
            fresh_source=None,
            held_pin=None,
            lease_until_us=0,
            modified_at_us=now_us,
            **values,
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
    idle = sa.or_(operations.c.lease_until_us < now_us, operations.c.lease_owner == PARKED)
    fenced = (
        sa.update(operations)
        .where(operations.c.id == operation_id, _NOT_DONE, idle)
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


def note_source(tx: Connection, operation_id: str, *, epoch: int, version: str | None, source: bytes | None) -> bool:
    """Remember the URL in use, and what it led to; say whether the epoch was still this one."""
    mine = (operations.c.id == operation_id, operations.c.epoch == epoch, _NOT_DONE)
    noted = sa.update(operations).where(*mine).values(source_version=version, source=source)
    return tx.execute(noted).rowcount == 1


def held_pin(tx: Connection, operation_id: str) -> str | None:
    """Return the name under which the store keeps what the operation copies, or None."""
    found = tx.execute(sa.select(operations.c.held_pin).where(operations.c.id == operation_id)).scalar()
    return str(found) if found is not None else None


def hold(tx: Connection, operation_id: str, *, epoch: int, held_pin: str) -> bool:
    """Remember the name under which the store keeps what is to be copied; say whether the epoch was still this one."""
    mine = (operations.c.id == operation_id, operations.c.epoch == epoch, _NOT_DONE)
    return tx.execute(sa.update(operations).where(*mine).values(held_pin=held_pin)).rowcount == 1


def judge_fresh_source(tx: Connection, operation_id: str, *, epoch: int, seen: bytes, refusal: str) -> None:
    """Remove the fresh URL that was looked at, unless another one came meanwhile; `refusal` says why not."""
    mine = (operations.c.id == operation_id, operations.c.epoch == epoch, _NOT_DONE)
    judged = sa.update(operations).where(*mine, operations.c.fresh_source == seen)
    tx.execute(judged.values(fresh_source=None, source_refusal=refusal))


def refresh_source(tx: Connection, operation_id: str, *, fresh: bytes, now_us: int) -> Operation | None:
    """Leave a fresh URL for whoever works on the operation; return it, or None when it is done or has no URL.

    A parked operation, which waits for such a URL, can be claimed at once.
    """
    parked = sa.case((operations.c.lease_owner == PARKED, 0), else_=operations.c.lease_until_us)
    left = (
        sa.update(operations)
        .where(operations.c.id == operation_id, _NOT_DONE, operations.c.source.is_not(None))
        .values(fresh_source=fresh, source_refusal="", modified_at_us=now_us, lease_until_us=parked)
        .returning(*operations.c)
    )
    row = tx.execute(left).mappings().first()
    return _operation(row) if row is not None else None


def park(tx: Connection, operation_id: str, *, epoch: int, now_us: int, until_us: int) -> bool:
    """Let an operation wait for a fresh URL until `until_us`; False when one is there, or the epoch moved on."""
    parked = (
        sa.update(operations)
        .where(
            operations.c.id == operation_id,
            operations.c.epoch == epoch,
            _NOT_DONE,
            operations.c.fresh_source.is_(None),
            operations.c.cancel_requested.is_(sa.false()),
        )
        .values(
            lease_owner=PARKED,
            lease_until_us=until_us,
            modified_at_us=now_us,
            attempts=operations.c.attempts - 1,
            progress=sa.null(),
        )
    )
    return tx.execute(parked).rowcount == 1


def prune(tx: Connection, *, before_us: int, limit: int) -> int:
    """Forget up to `limit` operations that ended before `before_us`, and their idempotency keys; return how many."""
    old = (
        sa.select(operations.c.id)
        .where(operations.c.done.is_(sa.true()), operations.c.modified_at_us < before_us)
        .order_by(operations.c.modified_at_us)
        .limit(limit)
    )
    ids = list(tx.execute(old).scalars())
    if ids:
        tx.execute(sa.delete(request_keys).where(request_keys.c.operation_id.in_(ids)))
        tx.execute(sa.delete(operations).where(operations.c.id.in_(ids)))
    return len(ids)


def _operation(row: Mapping[Any, Any]) -> Operation:
    values = {name: row[name] for name in _FIELDS}
    return Operation(**values | {"kind": OperationKind(row["kind"])})
