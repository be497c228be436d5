"""How an operation begins: as a row that waits for a worker, or as one that is done already."""

from __future__ import annotations

from service.model import OPERATION_ID_PREFIX, Operation, OperationKind, new_id, now_us
from service.origin import Origin


def new_operation(
    kind: OperationKind,
    *,
    resource_id: str,
    folder_id: str,
    origin: Origin,
    source: bytes | None = None,
    held_pin: str | None = None,
    disk_id: str | None = None,
    folder_bytes_max: int | None = None,
    response: bytes | None = None,
) -> Operation:
    """Return a new operation; one with a `response`, a serialized message, is done."""
    time_us = now_us()
    return Operation(
        id=new_id(OPERATION_ID_PREFIX),
        kind=kind,
        resource_id=resource_id,
        folder_id=folder_id,
        created_at_us=time_us,
        created_by=origin.caller.subject_id,
        modified_at_us=time_us,
        done=response is not None,
        error=None,
        response=response,
        source=source,
        fresh_source=None,
        source_refusal="",
        source_version=None,
        held_pin=held_pin,
        disk_id=disk_id,
        folder_bytes_max=folder_bytes_max,
        lease_owner="",
        epoch=0,
        attempts=0,
        cancel_requested=False,
        progress=None,
    )
