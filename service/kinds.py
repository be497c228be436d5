"""What tells images, disks and snapshots apart, for the code that treats them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

from google.protobuf.message import Message

from service import convert
from service.auth import Action, Verb, actions_of
from service.catalog.resource_rows import DISKS, IMAGES, SNAPSHOTS, Rows
from service.listing import DISK_FIELDS, IMAGE_FIELDS, SNAPSHOT_FIELDS, Fields
from service.model import DiskSpec, ImageSpec, OperationKind, Resource, S, SnapshotSpec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kind(Generic[S]):
    """One kind of resource. `updatable` are the fields that Update changes when it has no mask."""

    word: str
    id_prefix: str
    rows: Rows[S]
    fields: Fields
    message: Callable[[Resource[S]], Message]
    updatable: tuple[str, ...]
    actions: Mapping[Verb, Action]
    user_roles: tuple[str, ...]
    """Roles whose holders may look at a resource and make others from it; nothing else is given by a binding."""
    create: OperationKind
    update: OperationKind
    delete: OperationKind


def _user_roles(resources: str) -> tuple[str, ...]:
    return f"compute.{resources}.user", *(
        f"{prefix}{role}" for prefix in ("compute.", "") for role in ("viewer", "editor", "admin")
    )


IMAGE: Kind[ImageSpec] = Kind(
    word="image",
    id_prefix="fd8",
    rows=IMAGES,
    fields=IMAGE_FIELDS,
    message=convert.image_message,
    updatable=("name", "description", "min_disk_size", "labels"),
    actions=actions_of("images"),
    user_roles=_user_roles("images"),
    create=OperationKind.CREATE_IMAGE,
    update=OperationKind.UPDATE_IMAGE,
    delete=OperationKind.DELETE_IMAGE,
)
DISK: Kind[DiskSpec] = Kind(
    word="disk",
    id_prefix="fhm",
    rows=DISKS,
    fields=DISK_FIELDS,
    message=convert.disk_message,
    updatable=("name", "description", "labels", "size", "disk_placement_policy"),
    actions=actions_of("disks"),
    user_roles=_user_roles("disks"),
    create=OperationKind.CREATE_DISK,
    update=OperationKind.UPDATE_DISK,
    delete=OperationKind.DELETE_DISK,
)
SNAPSHOT: Kind[SnapshotSpec] = Kind(
    word="snapshot",
    id_prefix="fds",
    rows=SNAPSHOTS,
    fields=SNAPSHOT_FIELDS,
    message=convert.snapshot_message,
    updatable=("name", "description", "labels"),
    actions=actions_of("snapshots"),
    user_roles=_user_roles("snapshots"),
    create=OperationKind.CREATE_SNAPSHOT,
    update=OperationKind.UPDATE_SNAPSHOT,
    delete=OperationKind.DELETE_SNAPSHOT,
)
CREATED_BY: Mapping[OperationKind, Kind[Any]] = {kind.create: kind for kind in (IMAGE, DISK, SNAPSHOT)}
"""What operations make."""
