"""Which images a caller may see and use: those of folders that the policy names, and those shared by a binding."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from dataplane.errors import NotFound
from service.auth import Action, Caller
from service.catalog import binding_rows, image_rows
from service.faults import shown
from service.model import Image

EVERYBODY = "allAuthenticatedUsers"
"""Subject of type `system` that stands for every caller."""

USER_ROLES = ("compute.images.user", "compute.viewer", "compute.editor", "compute.admin", "viewer", "editor", "admin")
"""Roles whose holders may look at an image and make others from it; nothing else is given by a binding."""


def find(tx: Connection, image_id: str, caller: Caller, action: Action, *, lock: bool = False) -> Image:
    """Return an image that the caller may do this to. Raises NotFound, or PermissionDenied when it is visible."""
    image = image_rows.get(tx, image_id, lock=lock)
    what = f"image {shown(image_id)}"
    if image is None:
        raise NotFound(f"{what} is not there")
    if caller.may(image.spec.folder_id, action):
        return image
    shared = binding_rows.has_role(tx, image_id, subject_id=caller.subject_id, everybody=EVERYBODY, roles=USER_ROLES)
    if not (shared and action is Action.IMAGES_GET):
        caller.require(image.spec.folder_id, action, what=what)
    return image


def require_folder(folder_id: str, caller: Caller, action: Action) -> None:
    """Return when the caller may do this in the folder. Raises NotFound or PermissionDenied."""
    caller.require(folder_id, action, what=f"folder {shown(folder_id)}")
