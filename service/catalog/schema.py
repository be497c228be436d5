"""The catalogue's tables. They live beside the store's ledger, so that one transaction can change both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dataplane.errors import StoreIncompatible

SCHEMA_VERSION = 3

metadata = sa.MetaData()

versions = sa.Table(
    "catalog_schema",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),  # always 1: the table has one row
    sa.Column("version", sa.Integer, nullable=False),
)


def _resources(name: str, *own: sa.Column[Any]) -> sa.Table:
    """Return the table of images, of disks or of snapshots: what all three have, and their own columns."""
    table = sa.Table(
        name,
        metadata,
        sa.Column("id", sa.String(50), primary_key=True),
        sa.Column("folder_id", sa.String(50), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("description", sa.String(256), nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("product_ids", sa.JSON, nullable=False),
        sa.Column("os", sa.JSON, nullable=False),
        sa.Column("hardware_generation", sa.JSON(none_as_null=True)),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        *own,
        # The content: null while there is none.
        sa.Column("root", sa.LargeBinary),
        sa.Column("virtual_size", sa.BigInteger),
        sa.Column("data_size", sa.BigInteger),
        sa.Column("storage_size", sa.BigInteger),
        sa.Column("allocated_size", sa.BigInteger),
        sa.Column("chunk_size", sa.BigInteger),
        sa.Column("codec", sa.String(32)),
        sa.Column("chunks", sa.BigInteger),
        sa.Column("distinct_chunks", sa.BigInteger),
    )
    named = table.c.name != sa.literal_column("''")
    columns = (table.c.folder_id, table.c.name)
    sa.Index(f"{name}_name", *columns, unique=True, sqlite_where=named, postgresql_where=named)
    sa.Index(f"{name}_folder", table.c.folder_id, table.c.id)
    return table


images = _resources(
    "images",
    sa.Column("family", sa.String(63), nullable=False),
    sa.Column("min_disk_size", sa.BigInteger, nullable=False),
    sa.Column("pooled", sa.Boolean, nullable=False),
)
_POOLED = images.c.pooled.is_(sa.true())
sa.Index("images_pooled", images.c.folder_id, sqlite_where=_POOLED, postgresql_where=_POOLED)
sa.Index("images_family", images.c.folder_id, images.c.family, images.c.created_at_us)

disks = _resources(
    "disks",
    sa.Column("type_id", sa.String(50), nullable=False),
    sa.Column("zone_id", sa.String(50), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("block_size", sa.BigInteger, nullable=False),
    sa.Column("disk_placement_policy", sa.JSON(none_as_null=True)),
    sa.Column("source_image_id", sa.String(50), nullable=False),
    sa.Column("source_snapshot_id", sa.String(50), nullable=False),
)

snapshots = _resources(
    "snapshots",
    sa.Column("source_disk_id", sa.String(50), nullable=False),
    sa.Column("disk_size", sa.BigInteger, nullable=False),
)

operations = sa.Table(
    "operations",
    metadata,
    sa.Column("id", sa.String(50), primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("resource_id", sa.String(50), nullable=False),
    sa.Column("folder_id", sa.String(50), nullable=False),
    sa.Column("created_at_us", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.String(100), nullable=False),
    sa.Column("modified_at_us", sa.BigInteger, nullable=False),
    sa.Column("done", sa.Boolean, nullable=False),
    sa.Column("error", sa.LargeBinary),
    sa.Column("response", sa.LargeBinary),
    sa.Column("source", sa.LargeBinary),  # sealed, because a URL's query may be a secret; null when done
    sa.Column("lease_owner", sa.String(100), nullable=False),
    sa.Column("lease_until_us", sa.BigInteger, nullable=False),  # 0: nobody works on it
    sa.Column("epoch", sa.BigInteger, nullable=False),  # grows with each claim: an older worker cannot commit
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("progress", sa.JSON(none_as_null=True)),
    sa.Column("claimed_at_us", sa.BigInteger, nullable=False, server_default="0"),  # 0: nobody ever worked on it
    sa.Column("fresh_source", sa.LargeBinary),  # sealed; null when there is none to be looked at
    sa.Column("source_refusal", sa.String(1000), nullable=False, server_default=""),  # of the last fresh source
    sa.Column("source_version", sa.String(1000)),
    sa.Column("held_pin", sa.String(63)),
    sa.Column("disk_id", sa.String(50)),
    sa.Column("folder_bytes_max", sa.BigInteger),
)
_PENDING = operations.c.done.is_(sa.false())
_DONE = operations.c.done.is_(sa.true())
sa.Index(
    "operations_waiting",
    operations.c.folder_id,
    operations.c.created_at_us,
    operations.c.id,
    sqlite_where=_PENDING,
    postgresql_where=_PENDING,
)
sa.Index("operations_served", operations.c.folder_id, operations.c.claimed_at_us)
sa.Index("operations_of_resource", operations.c.resource_id, operations.c.created_at_us, operations.c.id)
sa.Index("operations_of_disk", operations.c.disk_id, sqlite_where=_PENDING, postgresql_where=_PENDING)
sa.Index("operations_done", operations.c.modified_at_us, sqlite_where=_DONE, postgresql_where=_DONE)

request_keys = sa.Table(
    "request_keys",
    metadata,
    sa.Column("subject_id", sa.String(100), primary_key=True),
    sa.Column("method", sa.String(100), primary_key=True),
    sa.Column("key", sa.String(128), primary_key=True),
    sa.Column("mark", sa.LargeBinary, nullable=False),  # tells the request from others
    sa.Column("operation_id", sa.String(50), nullable=False),
)
sa.Index("request_keys_operation", request_keys.c.operation_id)

access_bindings = sa.Table(
    "access_bindings",
    metadata,
    sa.Column("resource_id", sa.String(50), primary_key=True),
    sa.Column("subject_type", sa.String(100), primary_key=True),
    sa.Column("subject_id", sa.String(100), primary_key=True),
    sa.Column("role_id", sa.String(64), primary_key=True),
)

_SECOND = ("claimed_at_us", "fresh_source", "source_refusal", "source_version", "held_pin", "folder_bytes_max")
"""Columns of operations that version 1 lacks."""

_THIRD = ("disk_id",)
"""Columns of operations that version 2 lacks; it also lacks disks and snapshots, and calls every resource an image."""


def create_tables(tx: Connection) -> None:
    """Create what is missing, and bring older tables up to date. Raises StoreIncompatible for newer ones."""
    versions.create(tx, checkfirst=True)
    version = tx.execute(sa.select(versions.c.version).where(versions.c.id == 1)).scalar()
    if version is not None and not 1 <= version <= SCHEMA_VERSION:
        raise StoreIncompatible(
            f"the catalogue has schema version {version}, this program knows {SCHEMA_VERSION}: "
            "use the version of dataplane that made it"
        )
    if version is not None and version < SCHEMA_VERSION:
        _bring_up_to_date(tx, version)
    metadata.create_all(tx)
    if version is None:
        tx.execute(sa.insert(versions).values(id=1, version=SCHEMA_VERSION))


def _bring_up_to_date(tx: Connection, version: int) -> None:
    if version < 2:
        _add_columns(tx, _SECOND)
        _drop_indexes(tx, "operations_pending", "operations_image")
    for renamed in ("operations", *(["access_bindings"] if version == 2 else [])):
        tx.exec_driver_sql(f"ALTER TABLE {renamed} RENAME COLUMN image_id TO resource_id")
    _add_columns(tx, _THIRD)
    _drop_indexes(tx, "operations_of_image")
    for table in (images, operations):
        for index in table.indexes:
            index.create(tx, checkfirst=True)
    tx.execute(sa.update(versions).values(version=SCHEMA_VERSION))


def _add_columns(tx: Connection, names: Iterable[str]) -> None:
    for name in names:
        column = sa.schema.CreateColumn(operations.c[name]).compile(dialect=tx.dialect)
        tx.exec_driver_sql(f"ALTER TABLE operations ADD COLUMN {column}")


def _drop_indexes(tx: Connection, *names: str) -> None:
    for name in names:
        tx.exec_driver_sql(f"DROP INDEX IF EXISTS {name}")
