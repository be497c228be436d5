"""Keeps folders within their quotas, inside the transaction that would make them grow."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from service.catalog import image_rows, operation_rows
from service.faults import QuotaExceeded
from service.quotas import Quotas


def check_new_image(tx: Connection, folder_id: str, quotas: Quotas, *, stored: int, waits: bool) -> None:
    """Return when the folder may have one image more. Raises QuotaExceeded.

    `stored` are the bytes that it is known to add, 0 when an operation will find out; `waits` says whether there will
    be one.
    """
    images, used = image_rows.usage(tx, folder_id) if quotas.images is not None or quotas.bytes is not None else (0, 0)
    _check(folder_id, "images", quotas.images, images + 1)
    _check(folder_id, "bytes", quotas.bytes, used + max(stored, 1 if waits else 0))
    if waits and quotas.operations is not None:
        _check(folder_id, "operations", quotas.operations, operation_rows.count_unfinished(tx, folder_id) + 1)


def check_stored(tx: Connection, folder_id: str, bytes_max: int | None, *, stored: int) -> None:
    """Return when the folder may store so many bytes more. Raises QuotaExceeded."""
    if bytes_max is not None:
        _check(folder_id, "bytes", bytes_max, image_rows.usage(tx, folder_id)[1] + stored)


def _check(folder_id: str, quota: str, limit: int | None, asked: int) -> None:
    if limit is not None and asked > limit:
        raise QuotaExceeded(folder_id=folder_id, quota=quota, limit=limit, asked=asked)
