"""Use cases of access bindings: who has which role on a resource. Changes are operations that are done at once."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

from sqlalchemy.engine import Connection

from service import convert
from service.auth import Caller, Verb
from service.catalog import binding_rows, operation_rows
from service.catalog.database import Database
from service.faults import InvalidRequest, Violation
from service.kinds import Kind
from service.listing import PAGE_SIZE_DEFAULT, not_issued
from service.model import AccessBinding, BindingChange, Operation, OperationKind
from service.operations.beginning import new_operation
from service.operations.once import Changes
from service.origin import Origin
from service.sealing import Sealer
from service.visibility import find

BINDINGS_MAX = 1000


class Bindings:
    """Access bindings of one kind of resource, for callers whose requests have been checked."""

    def __init__(self, kind: Kind[Any], database: Database, sealer: Sealer) -> None:
        self._kind = kind
        self._database = database
        self._changes = Changes(database, sealer)

    def page(
        self, resource_id: str, caller: Caller, *, page_size: int, page_token: str
    ) -> tuple[Sequence[AccessBinding], str]:
        """Return one page of a resource's bindings, and the token of the next page, empty at the end.

        Raises NotFound, PermissionDenied, or InvalidRequest for a token that is none.
        """
        after = _after(page_token)
        limit = page_size or PAGE_SIZE_DEFAULT
        with self._database.read() as tx:
            find(tx, self._kind, resource_id, caller, Verb.LIST_ACCESS)
            rows = binding_rows.page(tx, resource_id, after=after, limit=limit + 1)
        return rows[:limit], _token(rows[limit - 1]) if len(rows) > limit else ""

    def replace(self, resource_id: str, bindings: Sequence[AccessBinding], origin: Origin) -> Operation:
        """Make these the resource's only bindings; the operation tells what that changed."""
        wanted = set(bindings)
        return self._change(
            resource_id,
            OperationKind.SET_ACCESS_BINDINGS,
            origin,
            lambda there: [
                *(BindingChange(binding=one, added=False) for one in sorted(there - wanted)),
                *(BindingChange(binding=one, added=True) for one in sorted(wanted - there)),
            ],
        )

    def update(self, resource_id: str, changes: Sequence[BindingChange], origin: Origin) -> Operation:
        """Add and remove bindings in this order; the operation tells which of that changed anything."""

        def effective(there: set[AccessBinding]) -> list[BindingChange]:
            now, found = set(there), []
            for change in changes:
                if change.added == (change.binding not in now):
                    found.append(change)
                    (now.add if change.added else now.discard)(change.binding)
            return found

        return self._change(resource_id, OperationKind.UPDATE_ACCESS_BINDINGS, origin, effective)

    def _change(
        self,
        resource_id: str,
        kind: OperationKind,
        origin: Origin,
        decide: Callable[[set[AccessBinding]], list[BindingChange]],
    ) -> Operation:
        def work(tx: Connection) -> Operation:
            resource = find(tx, self._kind, resource_id, origin.caller, Verb.SET_ACCESS, lock=True)
            before = binding_rows.everything(tx, resource_id)
            changes = decide(before)
            after = set(before)
            for change in changes:
                (after.add if change.added else after.discard)(change.binding)
            if len(after) > BINDINGS_MAX:
                problem = f"the {self._kind.word} would have {len(after)} bindings, at most {BINDINGS_MAX} are allowed"
                raise InvalidRequest([Violation("access_binding_deltas", problem)])
            binding_rows.remove(tx, resource_id, before - after)
            binding_rows.add(tx, resource_id, after - before)
            response = convert.bindings_result(changes).SerializeToString()
            operation = new_operation(
                kind, resource_id=resource_id, folder_id=resource.spec.folder_id, origin=origin, response=response
            )
            operation_rows.insert(tx, operation)
            return operation

        return self._changes.run(origin, work)


def _token(last: AccessBinding) -> str:
    return base64.urlsafe_b64encode(json.dumps(astuple(last), ensure_ascii=False).encode()).decode()


def _after(token: str) -> AccessBinding | None:
    if not token:
        return None
    try:
        subject_type, subject_id, role_id = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        parts = [part.encode() for part in (subject_type, subject_id, role_id)]
    except (binascii.Error, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise not_issued() from error
    if any(b"\0" in part for part in parts):
        raise not_issued()
    return AccessBinding(subject_type=subject_type, subject_id=subject_id, role_id=role_id)
