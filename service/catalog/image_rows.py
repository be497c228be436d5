"""Statements over the table of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.catalog.lookup import KEY, Lookup
from service.catalog.schema import images
from service.model import Image, ImageContent, ImageSpec, ImageStatus

_CONTENT_COLUMNS = tuple(field.name for field in fields(ImageContent))
_SPEC_COLUMNS = tuple(field.name for field in fields(ImageSpec))
_BY_ID = sa.select(images).where(images.c.id == sa.bindparam(KEY))
_INSERT = sa.insert(images)


def insert(tx: Connection, image: Image) -> None:
    """Add an image. The unique index refuses a name that its folder already has."""
    spec = {name: getattr(image.spec, name) for name in _SPEC_COLUMNS}  # asdict() copies what lies deeper
    values = spec | {"product_ids": list(image.spec.product_ids), "labels": dict(image.spec.labels)}
    content = asdict(image.content) if image.content is not None else {}
    keys = {"id": image.id, "status": image.status, "created_at_us": image.created_at_us}
    tx.execute(_INSERT, keys | values | content)


def get(tx: Connection, image_id: str, *, lock: bool = False) -> Image | None:
    """Return the image with this id, or None; with `lock` nobody else changes it until the transaction ends."""
    wanted = sa.select(images).where(images.c.id == image_id)
    row = tx.execute(wanted.with_for_update() if lock else wanted).mappings().first()
    return _image(row) if row is not None else None


def look_up(lookup: Lookup, image_id: str) -> Image | None:
    """Return the image with this id, or None, as it is at this moment and outside any transaction."""
    return lookup.first(_BY_ID, image_id, _image)


def latest_of_family(tx: Connection, *, folder_id: str, family: str) -> Image | None:
    """Return the newest READY image of a family, or None."""
    wanted = sa.select(images).where(
        images.c.folder_id == folder_id, images.c.family == family, images.c.status == ImageStatus.READY
    )
    row = tx.execute(wanted.order_by(images.c.created_at_us.desc(), images.c.id.desc()).limit(1)).mappings().first()
    return _image(row) if row is not None else None


def name_taken(tx: Connection, *, folder_id: str, name: str) -> bool:
    """Say whether an image of the folder has this name."""
    found = sa.select(images.c.id).where(images.c.folder_id == folder_id, images.c.name == name).limit(1)
    return tx.execute(found).first() is not None


def page(
    tx: Connection,
    *,
    folder_id: str,
    where: Sequence[sa.ColumnElement[bool]],
    order: sa.ColumnElement[Any],
    descending: bool,
    after: tuple[Any, str] | None,
    limit: int,
) -> list[tuple[Image, Any]]:
    """Return up to `limit` images of a folder, each with the value it is ordered by.

    Images of one value are in order of id. The page begins behind the value and id `after`, whether or not such an
    image is still there.
    """
    wanted = sa.select(images, order.label("order_value")).where(images.c.folder_id == folder_id, *where)
    if after is not None:
        value, last_id = after
        beyond = order < value if descending else order > value
        further = images.c.id < last_id if descending else images.c.id > last_id
        wanted = wanted.where(sa.or_(beyond, sa.and_(order == value, further)))
    sorting = [order.desc(), images.c.id.desc()] if descending else [order, images.c.id]
    rows = tx.execute(wanted.order_by(*sorting).limit(limit)).mappings()
    return [(_image(row), row["order_value"]) for row in rows]


def usage(tx: Connection, folder_id: str) -> tuple[int, int]:
    """Return how many images a folder has, and the bytes that are stored for those that are READY."""
    counted = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(images.c.storage_size), 0))
    row = tx.execute(counted.where(images.c.folder_id == folder_id)).one()
    return int(row[0]), int(row[1])


def update(tx: Connection, image_id: str, values: Mapping[str, Any]) -> Image | None:
    """Change columns of an image; return it as it is then, or None when it is not there."""
    changed = sa.update(images).where(images.c.id == image_id).values(**values).returning(*images.c)
    row = tx.execute(changed).mappings().first()
    return _image(row) if row is not None else None


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
