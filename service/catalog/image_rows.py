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
