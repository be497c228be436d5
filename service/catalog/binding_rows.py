"""Statements over the table of access bindings: who has which role on a resource."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, astuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.catalog.schema import access_bindings as table
from service.model import AccessBinding

_ORDER = (table.c.subject_type, table.c.subject_id, table.c.role_id)


def page(tx: Connection, resource_id: str, *, after: AccessBinding | None, limit: int) -> list[AccessBinding]:
    """Return up to `limit` bindings of a resource in order of subject and role, from the first one after `after`."""
    wanted = sa.select(*_ORDER).where(table.c.resource_id == resource_id)
    if after is not None:
        wanted = wanted.where(sa.tuple_(*_ORDER) > sa.tuple_(*map(sa.literal, astuple(after))))
    rows = tx.execute(wanted.order_by(*_ORDER).limit(limit))
    return [AccessBinding(subject_type=row[0], subject_id=row[1], role_id=row[2]) for row in rows]


def everything(tx: Connection, resource_id: str) -> set[AccessBinding]:
    """Return every binding of a resource."""
    rows = tx.execute(sa.select(*_ORDER).where(table.c.resource_id == resource_id))
    return {AccessBinding(subject_type=row[0], subject_id=row[1], role_id=row[2]) for row in rows}


def add(tx: Connection, resource_id: str, bindings: Iterable[AccessBinding]) -> None:
    """Add bindings that are not there yet."""
    rows = [{"resource_id": resource_id, **asdict(one)} for one in bindings]
    if rows:
        tx.execute(sa.insert(table), rows)


def remove(tx: Connection, resource_id: str, bindings: Iterable[AccessBinding]) -> None:
    """Remove bindings."""
    for one in bindings:
        tx.execute(
            sa.delete(table).where(
                table.c.resource_id == resource_id,
                table.c.subject_type == one.subject_type,
                table.c.subject_id == one.subject_id,
                table.c.role_id == one.role_id,
            )
        )


def remove_all(tx: Connection, resource_id: str) -> None:
    """Remove every binding of a resource that is going away."""
    tx.execute(sa.delete(table).where(table.c.resource_id == resource_id))


def has_role(tx: Connection, resource_id: str, *, subject_id: str, everybody: str, roles: Collection[str]) -> bool:
    """Say whether a subject, or everybody who is known at all, has one of the roles on a resource."""
    found = sa.select(table.c.role_id).where(
        table.c.resource_id == resource_id,
        table.c.role_id.in_(roles),
        sa.or_(
            sa.and_(table.c.subject_type == "system", table.c.subject_id == everybody),
            sa.and_(table.c.subject_type != "system", table.c.subject_id == subject_id),
        ),
    )
    return tx.execute(found.limit(1)).first() is not None
