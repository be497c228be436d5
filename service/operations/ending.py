"""The ends of an operation that makes an image; all of them but success share one undo."""

from __future__ import annotations

from collections.abc import Callable

from google.rpc import code_pb2, status_pb2
from sqlalchemy.engine import Connection

from dataplane import Store
from service import convert
from service.catalog import image_rows, operation_rows
from service.faults import LeaseLost
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
) -> None:
    """Make the image READY, pin its content and end the operation, all in the caller's transaction.

    Raises LeaseLost, and the transaction must be rolled back, when the operation was taken over or cancelled.
    """
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


Forget = Callable[[Connection, str], None]
"""Gives up, in a transaction, what workers have kept in the store to go on with an operation (its id) from."""


def forget(store: Store, tx: Connection, operation_id: str) -> None:
    """Give up an operation's checkpoints in `store`, whose ledger lies in the database of the catalogue."""
    store.forget_checkpoints(operation_id, connection=tx.connection.driver_connection)


def nothing_kept(_tx: Connection, _operation_id: str) -> None:
    """Forget nothing, where there is no store."""


def undo(tx: Connection, operation: Operation, *, epoch: int, error: status_pb2.Status, forget: Forget) -> bool:
    """End the operation with `error` and remove its image, which frees the name; False when the epoch moved on."""
    ended = operation_rows.finish(tx, operation.id, epoch=epoch, now_us=now_us(), error=error.SerializeToString())
    if ended:
        image_rows.delete(tx, operation.image_id, status=ImageStatus.CREATING)
        forget(tx, operation.id)
    return ended
