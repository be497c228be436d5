"""The ends of an operation that makes an image, a disk or a snapshot; all of them but success share one undo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.rpc import code_pb2, status_pb2
from sqlalchemy.engine import Connection

from service.catalog import operation_rows
from service.contents import Contents
from service.faults import LeaseLost
from service.kinds import CREATED_BY
from service.limits import check_stored
from service.model import Content, Json, Operation, Status, now_us

CANCELLED = status_pb2.Status(code=code_pb2.CANCELLED, message="the operation was cancelled")


def succeed(
    tx: Connection,
    operation: Operation,
    *,
    content: Content,
    values: Mapping[str, Any],
    progress: Json,
    pin: Callable[[Connection], None],
    contents: Contents,
) -> None:
    """Make what was being created READY, pin its content and end the operation, all in the caller's transaction.

    `values` are columns of it that are known now only. Raises LeaseLost when the operation was taken over or cancelled,
    QuotaExceeded when the folder has no room for the content; the transaction must be rolled back then.
    """
    kind = CREATED_BY[operation.kind]
    check_stored(tx, operation.folder_id, operation.folder_bytes_max, stored=content.storage_size)
    resource = kind.rows.mark_ready(tx, operation.resource_id, content=content, values=values)
    if resource is None:
        raise LeaseLost(f"{kind.word} {operation.resource_id} is no longer being created")
    response = kind.message(resource).SerializeToString()
    held_pin = operation_rows.held_pin(tx, operation.id)
    ended = operation_rows.finish(
        tx, operation.id, epoch=operation.epoch, now_us=now_us(), response=response, progress=progress
    )
    if not ended:
        raise LeaseLost(f"operation {operation.id} was taken over or cancelled")
    pin(tx)
    if held_pin is not None:
        contents.let_go(tx, held_pin)


def undo(tx: Connection, operation: Operation, *, epoch: int, error: status_pb2.Status, contents: Contents) -> bool:
    """End the operation with `error` and remove what it made, which frees the name; False when the epoch moved on."""
    held_pin = operation_rows.held_pin(tx, operation.id)  # not the caller's: it may have come since the claim
    ended = operation_rows.finish(tx, operation.id, epoch=epoch, now_us=now_us(), error=error.SerializeToString())
    if ended:
        CREATED_BY[operation.kind].rows.delete(tx, operation.resource_id, status=Status.CREATING)
        contents.forget_kept(tx, operation.id)
        if held_pin is not None:
            contents.let_go(tx, held_pin)
    return ended
