"""What callers can do with an operation: look at it, cancel it, and give it a fresh URL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection

from dataplane.errors import NotFound
from service.auth import Action, Caller
from service.catalog import operation_rows
from service.catalog.database import Database
from service.contents import Contents
from service.faults import FailedPrecondition, shown
from service.kinds import Kind
from service.listing import INTEGER_MAX, PAGE_SIZE_DEFAULT, not_issued
from service.model import Operation, now_us
from service.operations import ending
from service.sealing import Sealer
from service.visibility import named


class Operations:
    """Operations, for callers whose requests have been checked."""

    def __init__(self, database: Database, sealer: Sealer, contents: Contents) -> None:
        self._database = database
        self._sealer = sealer
        self._contents = contents

    def get(self, operation_id: str, caller: Caller) -> Operation:
        """Return the operation as it is now. Raises NotFound or PermissionDenied."""
        operation = operation_rows.look_up(self._database.lookup, operation_id)
        return _permitted(operation, operation_id, caller, Action.OPERATIONS_GET)

    def of_resource(
        self, kind: Kind[Any], resource_id: str, caller: Caller, *, page_size: int, page_token: str
    ) -> tuple[Sequence[Operation], str]:
        """Return one page of a resource's operations, newest first, and the token of the next page.

        They can be listed as long as they are kept, also when the resource is gone. Raises NotFound, PermissionDenied,
        or InvalidRequest for a token that is none.
        """
        limit = page_size or PAGE_SIZE_DEFAULT
        with self._database.read() as tx:
            caller.require(_folder_of(tx, kind, resource_id), Action.OPERATIONS_GET, what=named(kind, resource_id))
            found = operation_rows.of_resource(tx, resource_id, after=_after(page_token), limit=limit + 1)
        last = found[limit - 1] if len(found) > limit else None
        return found[:limit], f"{last.created_at_us}.{last.id}" if last is not None else ""

    def queue_position(self, operation: Operation) -> int:
        """Return the place of a waiting operation among all that wait, 1 for the next; 0 when it does not wait.

        Folders take turns, so an operation waits for those of its own folder that are older, and for as many of each
        other folder.
        """
        if operation.done:
            return 0
        time_us = now_us()
        with self._database.read() as tx:
            if not operation_rows.is_waiting(tx, operation.id, now_us=time_us):
                return 0
            turns = list(tx.execute(operation_rows.folders_in_turn(time_us)))
            before = operation_rows.waiting_before(tx, operation, now_us=time_us)
        position, is_behind = before + 1, True
        for folder_id, waiting in turns:
            if folder_id == operation.folder_id:
                is_behind = False
            else:
                position += min(waiting, before + is_behind)
        return position

    def cancel(self, operation_id: str, caller: Caller) -> Operation:
        """Ask for the operation to stop and return it as it is now; a finished one is returned as it is.

        One that no worker holds ends at once. Raises NotFound or PermissionDenied.
        """

        def work(tx: Connection) -> Operation:
            _permitted(operation_rows.get(tx, operation_id), operation_id, caller, Action.OPERATIONS_CANCEL)
            running = operation_rows.request_cancel(tx, operation_id, now_us=now_us())
            if running is not None:
                epoch = operation_rows.fence_idle(tx, operation_id, now_us=now_us())
                if epoch is not None:
                    ending.undo(tx, running, epoch=epoch, error=ending.CANCELLED, contents=self._contents)
            return _found(operation_rows.get(tx, operation_id), operation_id)

        return self._database.write(work)

    def replace_source(self, operation_id: str, uri: str, caller: Caller) -> Operation:
        """Leave a fresh URL for an import that is not done; whoever works on it will look where it leads.

        Raises NotFound, PermissionDenied, or FailedPrecondition when there is nothing to replace.
        """
        sealed = self._sealer.seal(uri)

        def work(tx: Connection) -> Operation:
            _permitted(operation_rows.get(tx, operation_id), operation_id, caller, Action.IMAGES_CREATE)
            operation = operation_rows.refresh_source(tx, operation_id, fresh=sealed, now_us=now_us())
            if operation is None:
                problem = f"operation {shown(operation_id)} is done, or does not read from a URL"
                raise FailedPrecondition(problem, subject=f"operation:{operation_id}")
            return operation

        return self._database.write(work)


def _folder_of(tx: Connection, kind: Kind[Any], resource_id: str) -> str:
    """Return the folder that a resource is in or was in. Raises NotFound."""
    newest = operation_rows.of_resource(tx, resource_id, after=None, limit=1)
    if newest and resource_id.startswith(kind.id_prefix):
        return newest[0].folder_id
    resource = kind.rows.get(tx, resource_id)  # operations are kept for a time, a resource may live longer
    if resource is None:
        raise NotFound(f"{named(kind, resource_id)} is not there")
    folder_id: str = resource.spec.folder_id
    return folder_id


def _permitted(found: Operation | None, operation_id: str, caller: Caller, action: Action) -> Operation:
    operation = _found(found, operation_id)
    caller.require(operation.folder_id, action, what=f"operation {shown(operation_id)}")
    return operation


def _found(operation: Operation | None, operation_id: str) -> Operation:
    if operation is None:
        raise NotFound(f"operation {shown(operation_id)} is not there")
    return operation


def _after(token: str) -> tuple[int, str] | None:
    if not token:
        return None
    time_text, _, last_id = token.partition(".")
    if not (time_text.isascii() and time_text.isdigit() and int(time_text) <= INTEGER_MAX):
        raise not_issued()
    if not (last_id.isascii() and last_id.isalnum()):
        raise not_issued()
    return int(time_text), last_id
