"""Statements over the table of access bindings: who has which role on an image."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import astuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.catalog.schema import access_bindings as table
from service.model import AccessBinding

_ORDER = (table.c.subject_type, table.c.subject_id, table.c.role_id)


def page(tx: Connection, image_id: str, *, after: AccessBinding | None, limit: int) -> list[AccessBinding]:
    """Return up to `limit` bindings of an image in order of subject and role, from the first one after `after`."""
    wanted = sa.select(*_ORDER).where(table.c.image_id == image_id)
    if after is not None:
        wanted = wanted.where(sa.tuple_(*_ORDER) > sa.tuple_(*map(sa.literal, astuple(after))))
    rows = tx.execute(wanted.order_by(*_ORDER).limit(limit))
    return [AccessBinding(subject_type=row[0], subject_id=row[1], role_id=row[2]) for row in rows]


def everything(tx: Connection, image_id: str) -> set[AccessBinding]:
    """Return every binding of an image."""
    rows = tx.execute(sa.select(*_ORDER).where(table.c.image_id == image_id))
    return {AccessBinding(subject_type=row[0], subject_id=row[1], role_id=row[2]) for row in rows}


def add(tx: Connection, image_id: str, bindings: Iterable[AccessBinding]) -> None:
    """Add bindings that are not there yet."""
    rows = [
        {"image_id": image_id, "subject_type": one.subject_type, "subject_id": one.subject_id, "role_id": one.role_id}
        for one in bindings
    ]
    if rows:
        tx.execute(sa.insert(table), rows)


def remove(tx: Connection, image_id: str, bindings: Iterable[AccessBinding]) -> None:
    """Remove bindings."""
    for one in bindings:
        tx.execute(
            sa.delete(table).where(
                table.c.image_id == image_id,
                table.c.subject_type == one.subject_type,
                table.c.subject_id == one.subject_id,
                table.c.role_id == one.role_id,
            )
        )


def remove_all(tx: Connection, image_id: str) -> None:
    """Remove every binding of an image that is going away."""
    tx.execute(sa.delete(table).where(table.c.image_id == image_id))


def has_role(tx: Connection, image_id: str, *, subject_id: str, everybody: str, roles: Collection[str]) -> bool:
    """Say whether a subject, or everybody who is known at all, has one of the roles on an image."""
    found = sa.select(table.c.role_id).where(
        table.c.image_id == image_id,
        table.c.role_id.in_(roles),
        sa.or_(
            sa.and_(table.c.subject_type == "system", table.c.subject_id == everybody),
            sa.and_(table.c.subject_type != "system", table.c.subject_id == subject_id),
        ),
    )
    return tx.execute(found.limit(1)).first() is not None
