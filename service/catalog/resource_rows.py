"""Statements over the tables of images, disks and snapshots, as far as they are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Generic

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.catalog import schema
from service.catalog.lookup import KEY, Lookup
from service.model import Content, DiskSpec, ImageSpec, Resource, S, SnapshotSpec, Status

_CONTENT_COLUMNS = tuple(field.name for field in fields(Content))


class Rows(Generic[S]):
    """The table of one kind of resource. Its columns are the fields of Resource, of the kind's Spec and of Content."""

    def __init__(self, table: sa.Table, spec: type[S]) -> None:
        self.table = table
        self._spec = spec
        self._spec_columns = tuple(field.name for field in fields(spec))
        self._by_id = sa.select(table).where(table.c.id == sa.bindparam(KEY))
        self._insert = sa.insert(table)

    def insert(self, tx: Connection, resource: Resource[S]) -> None:
        """Add a resource. The unique index refuses a name that its folder already has."""
        spec = {name: getattr(resource.spec, name) for name in self._spec_columns}  # asdict() copies what lies deeper
        values = spec | {"product_ids": list(resource.spec.product_ids), "labels": dict(resource.spec.labels)}
        content = asdict(resource.content) if resource.content is not None else {}
        keys = {"id": resource.id, "status": resource.status, "created_at_us": resource.created_at_us}
        tx.execute(self._insert, keys | values | content)

    def get(self, tx: Connection, resource_id: str, *, lock: bool = False) -> Resource[S] | None:
        """Return what has this id, or None; with `lock` nobody else changes it until the transaction ends."""
        wanted = sa.select(self.table).where(self.table.c.id == resource_id)
        row = tx.execute(wanted.with_for_update() if lock else wanted).mappings().first()
        return self.made(row) if row is not None else None

    def look_up(self, lookup: Lookup, resource_id: str) -> Resource[S] | None:
        """Return what has this id, or None, as it is at this moment and outside any transaction."""
        return lookup.first(self._by_id, resource_id, self.made)

    def name_taken(self, tx: Connection, *, folder_id: str, name: str) -> bool:
        """Say whether one of the folder has this name."""
        columns = self.table.c
        found = sa.select(columns.id).where(columns.folder_id == folder_id, columns.name == name).limit(1)
        return tx.execute(found).first() is not None

    def page(
        self,
        tx: Connection,
        *,
        folder_id: str,
        where: Sequence[sa.ColumnElement[bool]],
        order: sa.ColumnElement[Any],
        descending: bool,
        after: tuple[Any, str] | None,
        limit: int,
    ) -> list[tuple[Resource[S], Any]]:
        """Return up to `limit` of a folder, each with the value it is ordered by.

        Those of one value are in order of id. The page begins behind the value and id `after`, whether or not such a
        row is still there.
        """
        key = self.table.c.id
        wanted = sa.select(self.table, order.label("order_value")).where(self.table.c.folder_id == folder_id, *where)
        if after is not None:
            value, last_id = after
            beyond = order < value if descending else order > value
            further = key < last_id if descending else key > last_id
            wanted = wanted.where(sa.or_(beyond, sa.and_(order == value, further)))
        sorting = [order.desc(), key.desc()] if descending else [order, key]
        rows = tx.execute(wanted.order_by(*sorting).limit(limit)).mappings()
        return [(self.made(row), row["order_value"]) for row in rows]

    def usage(self, tx: Connection, folder_id: str, *, summed: str) -> tuple[int, int]:
        """Return how many a folder has in whatever state, and the sum of the column `summed`."""
        counted = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(self.table.c[summed]), 0))
        row = tx.execute(counted.where(self.table.c.folder_id == folder_id)).one()
        return int(row[0]), int(row[1])

    def update(self, tx: Connection, resource_id: str, values: Mapping[str, Any]) -> Resource[S] | None:
        """Change columns of a row; return it as it is then, or None when it is not there."""
        changed = sa.update(self.table).where(self.table.c.id == resource_id).values(**values)
        return self._changed(tx, changed)

    def mark_ready(
        self, tx: Connection, resource_id: str, *, content: Content, values: Mapping[str, Any]
    ) -> Resource[S] | None:
        """Give what is CREATING its content and other `values`, and make it READY; return it.

        None when it is not there to be finished.
        """
        mine = (self.table.c.id == resource_id, self.table.c.status == Status.CREATING)
        done = sa.update(self.table).where(*mine).values(status=Status.READY, **values, **asdict(content))
        return self._changed(tx, done)

    def delete(self, tx: Connection, resource_id: str, *, status: Status) -> bool:
        """Remove a row if it has this status; say whether it did."""
        gone = sa.delete(self.table).where(self.table.c.id == resource_id, self.table.c.status == status)
        return tx.execute(gone).rowcount == 1

    def made(self, row: Mapping[Any, Any]) -> Resource[S]:
        """Return the resource of a row."""
        content = None
        if row["root"] is not None:
            content = Content(**{name: row[name] for name in _CONTENT_COLUMNS})
        spec = {name: row[name] for name in self._spec_columns} | {"product_ids": tuple(row["product_ids"])}
        return Resource(
            id=row["id"],
            spec=self._spec(**spec),
            status=Status(row["status"]),
            created_at_us=row["created_at_us"],
            content=content,
        )

    def _changed(self, tx: Connection, statement: sa.Update) -> Resource[S] | None:
        row = tx.execute(statement.returning(*self.table.c)).mappings().first()
        return self.made(row) if row is not None else None


IMAGES = Rows(schema.images, ImageSpec)
DISKS = Rows(schema.disks, DiskSpec)
SNAPSHOTS = Rows(schema.snapshots, SnapshotSpec)
