"""Who is calling and what they may do, as servicers see it; how callers are told apart is in `service.identity`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from dataplane.errors import NotFound
from service.faults import PermissionDenied, Unauthenticated

OPEN_SERVICES = (
    "yandex.cloud.endpoint.ApiEndpointService",
    "yandex.cloud.iam.v1.IamTokenService",
)
"""Services that clients call before they have a token; health and reflection are open too."""

TOKEN_LENGTH_MAX = 8192
ANY_FOLDER = "*"

Metadata = Iterable[tuple[str, str | bytes]]
Grants = Mapping[str, frozenset[str]]
"""Folder id to the actions permitted in it; the id `*` stands for every folder."""


class Verb(StrEnum):
    """What can be done to images, disks and snapshots."""

    GET = "get"
    LIST = "list"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    LIST_ACCESS = "listAccess"
    SET_ACCESS = "setAccess"


class Action(StrEnum):
    """What a policy can permit in a folder."""

    IMAGES_GET = "images.get"
    IMAGES_LIST = "images.list"
    IMAGES_CREATE = "images.create"
    IMAGES_UPDATE = "images.update"
    IMAGES_DELETE = "images.delete"
    IMAGES_LIST_ACCESS = "images.listAccess"
    IMAGES_SET_ACCESS = "images.setAccess"
    DISKS_GET = "disks.get"
    DISKS_LIST = "disks.list"
    DISKS_CREATE = "disks.create"
    DISKS_UPDATE = "disks.update"
    DISKS_DELETE = "disks.delete"
    DISKS_LIST_ACCESS = "disks.listAccess"
    DISKS_SET_ACCESS = "disks.setAccess"
    SNAPSHOTS_GET = "snapshots.get"
    SNAPSHOTS_LIST = "snapshots.list"
    SNAPSHOTS_CREATE = "snapshots.create"
    SNAPSHOTS_UPDATE = "snapshots.update"
    SNAPSHOTS_DELETE = "snapshots.delete"
    SNAPSHOTS_LIST_ACCESS = "snapshots.listAccess"
    SNAPSHOTS_SET_ACCESS = "snapshots.setAccess"
    OPERATIONS_GET = "operations.get"
    OPERATIONS_CANCEL = "operations.cancel"


def actions_of(resources: str) -> Mapping[Verb, Action]:
    """Return the action of each verb for `resources`, such as ``images``."""
    return {verb: Action(f"{resources}.{verb}") for verb in Verb}


ALL_ACTIONS = frozenset(map(str, Action))
EVERYTHING: Grants = {ANY_FOLDER: ALL_ACTIONS}
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever made a call; `subject_id` tells callers apart and says nothing about their tokens."""

    subject_id: str
    grants: Grants = field(default_factory=dict, compare=False, repr=False)

    def may(self, folder_id: str, action: str) -> bool:
        """Say whether the caller may do this in the folder."""
        return action in self.grants.get(folder_id, _NOTHING) or action in self.grants.get(ANY_FOLDER, _NOTHING)

    def sees(self, folder_id: str) -> bool:
        """Say whether the caller may know that the folder is there: something is permitted in it."""
        return bool(self.grants.get(folder_id) or self.grants.get(ANY_FOLDER))

    def require(self, folder_id: str, action: str, *, what: str) -> None:
        """Return when the caller may do this to `what`, a resource of the folder, named as in ``image 'x'``.

        Raises NotFound, in the words used for a resource that does not exist, when the folder is foreign, and
        PermissionDenied when it is visible but this action is not permitted in it.
        """
        if self.may(folder_id, action):
            return
        if not self.sees(folder_id):
            raise NotFound(f"{what} is not there")
        raise PermissionDenied(f"{action} is not permitted to you for {what}: ask for it in the server's policy")


ANONYMOUS = Caller(subject_id="")


class Authenticator(Protocol):
    """Finds out who makes a call."""

    def authenticate(self, metadata: Metadata) -> Caller:
        """Return the caller. Raises Unauthenticated without credentials that are accepted."""
        ...


def bearer_token(metadata: Metadata) -> str:
    """Return the token of ``authorization: Bearer TOKEN``. Raises Unauthenticated when there is none, or two."""
    values = [value for key, value in metadata if key == "authorization"]
    if len(values) == 1 and isinstance(values[0], str):
        scheme, _, token = values[0].partition(" ")
        token = token.strip()
        if scheme.lower() == "bearer" and 0 < len(token) <= TOKEN_LENGTH_MAX:
            return token
    raise Unauthenticated("the call has no 'authorization: Bearer TOKEN' header, or one that is not accepted")
