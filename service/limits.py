"""Keeps folders within their quotas, inside the transaction that would make them grow."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from service.catalog import image_rows, operation_rows
from service.catalog.resource_rows import DISKS, IMAGES, SNAPSHOTS, Rows
from service.faults import QuotaExceeded
from service.model import ImageSpec
from service.quotas import Quotas


def check_new_image(tx: Connection, spec: ImageSpec, quotas: Quotas, *, stored: int, waits: bool) -> None:
    """Return when the folder of an image may have it besides those it has. Raises QuotaExceeded.

    `stored` are the bytes that it is known to add, 0 when an operation will find out; `waits` says whether there will
    be one.
    """
    folder_id = spec.folder_id
    images, used = _usage(tx, IMAGES, folder_id, "storage_size", quotas.images, quotas.bytes)
    _check(folder_id, "images", quotas.images, images + 1)
    _check(folder_id, "bytes", quotas.bytes, used + max(stored, 1 if waits else 0))
    if spec.pooled and quotas.pooled_images is not None:
        pooled = image_rows.count_pooled(tx, folder_id)
        _check(folder_id, "pooled_images", quotas.pooled_images, pooled + 1)
    _check_waiting(tx, folder_id, quotas, waits=waits)


def check_new_disk(tx: Connection, folder_id: str, quotas: Quotas, *, size: int, waits: bool) -> None:
    """Return when the folder may have one disk more, of `size` bytes. Raises QuotaExceeded."""
    disks, used = _usage(tx, DISKS, folder_id, "size", quotas.disks, quotas.disk_bytes)
    _check(folder_id, "disks", quotas.disks, disks + 1)
    _check(folder_id, "disk_bytes", quotas.disk_bytes, used + size)
    _check_waiting(tx, folder_id, quotas, waits=waits)


def check_growth(tx: Connection, folder_id: str, quotas: Quotas, *, grown_by: int) -> None:
    """Return when a disk of the folder may grow by so many bytes. Raises QuotaExceeded."""
    if grown_by:
        used = _usage(tx, DISKS, folder_id, "size", quotas.disk_bytes)[1]
        _check(folder_id, "disk_bytes", quotas.disk_bytes, used + grown_by)


def check_new_snapshot(tx: Connection, folder_id: str, quotas: Quotas, *, disk_size: int, waits: bool) -> None:
    """Return when the folder may have one snapshot more, of a disk of `disk_size` bytes. Raises QuotaExceeded."""
    snapshots, used = _usage(tx, SNAPSHOTS, folder_id, "disk_size", quotas.snapshots, quotas.snapshot_bytes)
    _check(folder_id, "snapshots", quotas.snapshots, snapshots + 1)
    _check(folder_id, "snapshot_bytes", quotas.snapshot_bytes, used + disk_size)
    _check_waiting(tx, folder_id, quotas, waits=waits)


def check_stored(tx: Connection, folder_id: str, bytes_max: int | None, *, stored: int) -> None:
    """Return when the folder may store so many bytes of images more. Raises QuotaExceeded."""
    used = _usage(tx, IMAGES, folder_id, "storage_size", bytes_max)[1]
    _check(folder_id, "bytes", bytes_max, used + stored)


def _usage(tx: Connection, rows: Rows[Any], folder_id: str, summed: str, *limits: int | None) -> tuple[int, int]:
    """Return how many a folder has and the sum of a column; nothing is counted when there are no limits."""
    return rows.usage(tx, folder_id, summed=summed) if any(limit is not None for limit in limits) else (0, 0)


def _check_waiting(tx: Connection, folder_id: str, quotas: Quotas, *, waits: bool) -> None:
    if waits and quotas.operations is not None:
        _check(folder_id, "operations", quotas.operations, operation_rows.count_unfinished(tx, folder_id) + 1)


def _check(folder_id: str, quota: str, limit: int | None, asked: int) -> None:
    if limit is not None and asked > limit:
        raise QuotaExceeded(folder_id=folder_id, quota=quota, limit=limit, asked=asked)
