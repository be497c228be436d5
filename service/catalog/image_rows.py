"""Statements over the table of images that disks and snapshots have nothing like."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.catalog.resource_rows import IMAGES
from service.catalog.schema import images
from service.model import Image, Status


def latest_of_family(tx: Connection, *, folder_id: str, family: str) -> Image | None:
    """Return the newest READY image of a family, or None."""
    wanted = sa.select(images).where(
        images.c.folder_id == folder_id, images.c.family == family, images.c.status == Status.READY
    )
    row = tx.execute(wanted.order_by(images.c.created_at_us.desc(), images.c.id.desc()).limit(1)).mappings().first()
    return IMAGES.made(row) if row is not None else None


def pooled(tx: Connection) -> list[tuple[str, bytes]]:
    """Return (id, root) of the pooled images that are READY, the oldest first."""
    wanted = sa.select(images.c.id, images.c.root).where(
        images.c.pooled.is_(sa.true()), images.c.status == Status.READY, images.c.root.is_not(None)
    )
    return [(row.id, row.root) for row in tx.execute(wanted.order_by(images.c.created_at_us, images.c.id))]


def count_pooled(tx: Connection, folder_id: str) -> int:
    """Return how many pooled images a folder has, in whatever state."""
    counted = sa.select(sa.func.count()).where(images.c.folder_id == folder_id, images.c.pooled.is_(sa.true()))
    return int(tx.execute(counted).scalar_one())
