"""Changes that a caller may ask for again: the same idempotency key and request give the operation that they gave."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from dataplane.errors import NotFound
from service.catalog import key_rows, operation_rows
from service.catalog.database import Database
from service.faults import InvalidRequest, Violation
from service.model import Operation
from service.origin import KEY_HEADER, Origin
from service.sealing import Sealer


class Changes:
    """Runs changes, each in one transaction with the row of its key, so that of two at once one is the repetition."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    def known(self, origin: Origin) -> Operation | None:
        """Return what the same call has returned before, or None; for calls that do more than change the catalogue.

        Raises InvalidRequest when the key was used for another request.
        """
        if not origin.key:
            return None
        with self._database.read() as tx:
            return _known(tx, origin, self._sealer.mark(origin.request))

    def run(self, origin: Origin, work: Callable[[Connection], Operation]) -> Operation:
        """Return what `work` returns, or returned when the same call was made before.

        Raises what `work` raises, which is not remembered; InvalidRequest when the key was used for another request.
        """
        if not origin.key:
            return self._database.write(work)
        mark = self._sealer.mark(origin.request)

        def once(tx: Connection) -> Operation:
            known = _known(tx, origin, mark)
            if known is not None:
                return known
            operation = work(tx)
            key_rows.insert(
                tx,
                subject_id=origin.caller.subject_id,
                method=origin.method,
                key=origin.key,
                mark=mark,
                operation_id=operation.id,
            )
            return operation

        try:
            return self._database.write(once)
        except IntegrityError:  # on databases with several writers another one may have been faster
            with self._database.read() as tx:
                known = _known(tx, origin, mark)
            if known is None:
                raise
            return known


def _known(tx: Connection, origin: Origin, mark: bytes) -> Operation | None:
    found = key_rows.get(tx, subject_id=origin.caller.subject_id, method=origin.method, key=origin.key)
    if found is None:
        return None
    if not hmac.compare_digest(found.mark, mark):
        raise InvalidRequest([Violation(KEY_HEADER, "was used for another request: choose a new key")])
    operation = operation_rows.get(tx, found.operation_id)
    if operation is None or not origin.caller.sees(operation.folder_id):
        raise NotFound("the operation of this idempotency key is not there")
    return operation
