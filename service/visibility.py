"""What a caller may see and use: what is in folders that the policy names, and what is shared by a binding."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from dataplane.errors import NotFound
from service.auth import Caller, Verb
from service.catalog import binding_rows
from service.faults import shown
from service.kinds import Kind
from service.model import Resource, S

EVERYBODY = "allAuthenticatedUsers"
"""Subject of type `system` that stands for every caller."""


def find(
    tx: Connection, kind: Kind[S], resource_id: str, caller: Caller, verb: Verb, *, lock: bool = False
) -> Resource[S]:
    """Return what the caller may do this to. Raises NotFound, or PermissionDenied when it is visible."""
    resource = kind.rows.get(tx, resource_id, lock=lock)
    what = named(kind, resource_id)
    if resource is None:
        raise NotFound(f"{what} is not there")
    action = kind.actions[verb]
    if caller.may(resource.spec.folder_id, action):
        return resource
    shared = binding_rows.has_role(
        tx, resource_id, subject_id=caller.subject_id, everybody=EVERYBODY, roles=kind.user_roles
    )
    if not (shared and verb is Verb.GET):
        caller.require(resource.spec.folder_id, action, what=what)
    return resource


def named(kind: Kind[S], resource_id: str) -> str:
    """Return a resource as messages name it."""
    return f"{kind.word} {shown(resource_id)}"


def require_folder(folder_id: str, caller: Caller, action: str) -> None:
    """Return when the caller may do this in the folder. Raises NotFound or PermissionDenied."""
    caller.require(folder_id, action, what=f"folder {shown(folder_id)}")
