"""What callers can do with an operation: look at it, and cancel it."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from dataplane.errors import NotFound
from service.catalog import operation_rows
from service.catalog.database import Database
from service.faults import shown
from service.model import Operation, now_us
from service.operations import ending


class Operations:
    """Operations for callers that have been checked."""

    def __init__(self, database: Database, forget: ending.Forget = ending.nothing_kept) -> None:
        self._database = database
        self._forget = forget

    def get(self, operation_id: str) -> Operation:
        """Return the operation as it is now. Raises NotFound."""
        with self._database.read() as tx:
            return _found(operation_rows.get(tx, operation_id), operation_id)

    def cancel(self, operation_id: str) -> Operation:
        """Ask for the operation to stop and return it as it is now; a finished one is returned as it is.

        One that no worker holds ends at once. Raises NotFound.
        """

        def work(tx: Connection) -> Operation:
            running = operation_rows.request_cancel(tx, operation_id, now_us=now_us())
            if running is not None:
                epoch = operation_rows.fence_idle(tx, operation_id, now_us=now_us())
                if epoch is not None:
                    ending.undo(tx, running, epoch=epoch, error=ending.CANCELLED, forget=self._forget)
            return _found(operation_rows.get(tx, operation_id), operation_id)

        return self._database.write(work)


def _found(operation: Operation | None, operation_id: str) -> Operation:
    if operation is None:
        raise NotFound(f"operation {shown(operation_id)} is not there")
    return operation
