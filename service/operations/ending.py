"""The ends of an operation that makes an image; all of them but success share one undo."""

from __future__ import annotations

from collections.abc import Callable

from google.rpc import code_pb2, status_pb2
from sqlalchemy.engine import Connection

from service import convert
from service.catalog import image_rows, operation_rows
from service.contents import Contents
from service.faults import LeaseLost
from service.limits import check_stored
from service.model import ImageContent, ImageStatus, Json, Operation, now_us

CANCELLED = status_pb2.Status(code=code_pb2.CANCELLED, message="the operation was cancelled")


def succeed(
    tx: Connection,
    operation: Operation,
    *,
    content: ImageContent,
    min_disk_size: int,
    progress: Json,
    pin: Callable[[Connection], None],
    contents: Contents,
) -> None:
    """Make the image READY, pin its content and end the operation, all in the caller's transaction.

    Raises LeaseLost when the operation was taken over or cancelled, QuotaExceeded when the folder has no room for the
    content; the transaction must be rolled back then.
    """
    check_stored(tx, operation.folder_id, operation.folder_bytes_max, stored=content.storage_size)
    image = image_rows.mark_ready(tx, operation.image_id, content=content, min_disk_size=min_disk_size)
    if image is None:
        raise LeaseLost(f"image {operation.image_id} is no longer being created")
    response = convert.image_message(image).SerializeToString()
    ended = operation_rows.finish(
        tx, operation.id, epoch=operation.epoch, now_us=now_us(), response=response, progress=progress
    )
    if not ended:
        raise LeaseLost(f"operation {operation.id} was taken over or cancelled")
    pin(tx)
    _release(tx, operation, contents)


def undo(tx: Connection, operation: Operation, *, epoch: int, error: status_pb2.Status, contents: Contents) -> bool:
    """End the operation with `error` and remove its image, which frees the name; False when the epoch moved on."""
    ended = operation_rows.finish(tx, operation.id, epoch=epoch, now_us=now_us(), error=error.SerializeToString())
    if ended:
        image_rows.delete(tx, operation.image_id, status=ImageStatus.CREATING)
        _release(tx, operation, contents)
    return ended


def _release(tx: Connection, operation: Operation, contents: Contents) -> None:
    """Let go of the image that was kept for copying."""
    if operation.held_pin is not None:
        contents.let_go(tx, operation.held_pin)
