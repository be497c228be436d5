"""Statements over the table of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.catalog.schema import images
from service.model import Image, ImageContent, ImageSpec, ImageStatus

_CONTENT_COLUMNS = tuple(field.name for field in fields(ImageContent))


def insert(tx: Connection, image: Image) -> None:
    """Add an image that is being created. The unique index refuses a name that its folder already has."""
    values = asdict(image.spec) | {"product_ids": list(image.spec.product_ids), "labels": dict(image.spec.labels)}
    tx.execute(sa.insert(images).values(id=image.id, status=image.status, created_at_us=image.created_at_us, **values))


def get(tx: Connection, image_id: str) -> Image | None:
    """Return the image with this id, or None."""
    row = tx.execute(sa.select(images).where(images.c.id == image_id)).mappings().first()
    return _image(row) if row is not None else None


def name_taken(tx: Connection, *, folder_id: str, name: str) -> bool:
    """Say whether an image of the folder has this name."""
    found = sa.select(images.c.id).where(images.c.folder_id == folder_id, images.c.name == name).limit(1)
    return tx.execute(found).first() is not None


def page(tx: Connection, *, folder_id: str, after_id: str, name: str | None, limit: int) -> list[Image]:
    """Return up to `limit` images of a folder in order of id, from the first id above `after_id`."""
    wanted = sa.select(images).where(images.c.folder_id == folder_id, images.c.id > after_id)
    if name is not None:
        wanted = wanted.where(images.c.name == name)
    rows = tx.execute(wanted.order_by(images.c.id).limit(limit)).mappings()
    return [_image(row) for row in rows]


def mark_ready(tx: Connection, image_id: str, *, content: ImageContent, min_disk_size: int) -> Image | None:
    """Give a CREATING image its content and make it READY; return it, or None when it is not there to be finished."""
    done = (
        sa.update(images)
        .where(images.c.id == image_id, images.c.status == ImageStatus.CREATING)
        .values(status=ImageStatus.READY, min_disk_size=min_disk_size, **asdict(content))
        .returning(*images.c)
    )
    row = tx.execute(done).mappings().first()
    return _image(row) if row is not None else None


def delete(tx: Connection, image_id: str, *, status: ImageStatus) -> bool:
    """Remove the image if it has this status; say whether it did."""
    gone = sa.delete(images).where(images.c.id == image_id, images.c.status == status)
    return tx.execute(gone).rowcount == 1


def _image(row: Mapping[Any, Any]) -> Image:
    content = None
    if row["root"] is not None:
        content = ImageContent(**{name: row[name] for name in _CONTENT_COLUMNS})
    spec = ImageSpec(
        folder_id=row["folder_id"],
        name=row["name"],
        description=row["description"],
        labels=row["labels"],
        family=row["family"],
        min_disk_size=row["min_disk_size"],
        product_ids=tuple(row["product_ids"]),
        os=row["os"],
        pooled=row["pooled"],
        hardware_generation=row["hardware_generation"],
    )
    status = ImageStatus(row["status"])
    return Image(id=row["id"], spec=spec, status=status, created_at_us=row["created_at_us"], content=content)
