"""Use cases of images: each is one transaction over the catalogue and, for content, over the store's ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from dataplane.errors import AlreadyExists, NotFound
from service import convert, limits
from service.auth import Action, Caller
from service.catalog import binding_rows, image_rows, operation_rows
from service.catalog.database import Database
from service.contents import Contents
from service.faults import FailedPrecondition, shown
from service.inheriting import inherit
from service.listing import PAGE_SIZE_DEFAULT, Listing
from service.model import (
    IMAGE_ID_PREFIX,
    Image,
    ImageSpec,
    ImageStatus,
    Operation,
    OperationKind,
    chosen_disk_size,
    new_id,
    now_us,
)
from service.operations.beginning import new_operation
from service.operations.once import Changes
from service.origin import Origin
from service.quotas import Quotas
from service.sealing import Sealer
from service.visibility import find, require_folder

UPDATABLE = ("name", "description", "min_disk_size", "labels")


class Images:
    """What can be done with images, for callers whose requests have been checked."""

    def __init__(self, database: Database, sealer: Sealer, contents: Contents, quotas: Quotas | None = None) -> None:
        self._database = database
        self._sealer = sealer
        self._contents = contents
        self._quotas = quotas or Quotas()
        self._changes = Changes(database, sealer)

    def get(self, image_id: str, caller: Caller) -> Image:
        """Return an image. Raises NotFound or PermissionDenied."""
        image = image_rows.look_up(self._database.lookup, image_id)
        if image is not None and caller.may(image.spec.folder_id, Action.IMAGES_GET):
            return image
        with self._database.read() as tx:  # it may be shared; and whoever may not see it is told so in `find`
            return find(tx, image_id, caller, Action.IMAGES_GET)

    def latest_of_family(self, folder_id: str, family: str, caller: Caller) -> Image:
        """Return the newest READY image of a family. Raises NotFound or PermissionDenied."""
        require_folder(folder_id, caller, Action.IMAGES_GET)
        with self._database.read() as tx:
            image = image_rows.latest_of_family(tx, folder_id=folder_id, family=family) if family else None
        if image is None:
            raise NotFound(f"folder {shown(folder_id)} has no image of family {shown(family)} that is ready")
        return image

    def list(
        self, folder_id: str, caller: Caller, *, page_size: int, page_token: str, filter_text: str, order_by: str
    ) -> tuple[Sequence[Image], str]:
        """Return one page of a folder's images, and the token of the next page, empty at the end.

        The token holds the place of the last image seen, so that images created or deleted meanwhile shift nothing.
        Raises InvalidRequest for a token, filter or order that is not understood, NotFound or PermissionDenied.
        """
        require_folder(folder_id, caller, Action.IMAGES_LIST)
        listing = Listing(folder_id, filter_text=filter_text, order_by=order_by)
        limit = page_size or PAGE_SIZE_DEFAULT
        with self._database.read() as tx:
            rows = image_rows.page(
                tx,
                folder_id=folder_id,
                where=listing.where,
                order=listing.order,
                descending=listing.descending,
                after=listing.after(page_token),
                limit=limit + 1,
            )
        images = [image for image, _ in rows[:limit]]
        return images, listing.token(images[-1].id, rows[limit - 1][1]) if len(rows) > limit else ""

    def create(self, spec: ImageSpec, uri: str, origin: Origin) -> Operation:
        """Commit an image that is being created and the operation that will import it from `uri`; return the latter.

        Raises AlreadyExists when the folder has an image of this name, QuotaExceeded, NotFound or PermissionDenied.
        """
        require_folder(spec.folder_id, origin.caller, Action.IMAGES_CREATE)
        sealed = self._sealer.seal(uri)
        whole = inherit(spec, None)

        def work(tx: Connection) -> Operation:
            limits.check_new_image(tx, spec.folder_id, self._quotas, stored=0, waits=True)
            return self._begin_creation(tx, whole, origin, source=sealed)

        return self._named(spec, lambda: self._changes.run(origin, work))

    def create_from_image(self, spec: ImageSpec, source_id: str, origin: Origin) -> Operation:
        """Commit an image with the content of another one; return its operation.

        Within a folder that is done at once. Folders share no chunk ids, so from another folder a worker has to copy;
        until then the store keeps the content, whatever happens to the source. Raises what ``create`` does,
        FailedPrecondition unless the source is READY, and InvalidRequest for a min_disk_size that is too small.
        """
        require_folder(spec.folder_id, origin.caller, Action.IMAGES_CREATE)

        def work(tx: Connection) -> Operation:
            source = find(tx, source_id, origin.caller, Action.IMAGES_GET, lock=True)
            if source.content is None:
                raise self._being_created(tx, source_id)
            size = chosen_disk_size(spec.min_disk_size, source.content.virtual_size)
            whole = inherit(replace(spec, min_disk_size=size), source.spec)
            same = source.spec.folder_id == spec.folder_id
            stored = source.content.storage_size if same else 0
            limits.check_new_image(tx, spec.folder_id, self._quotas, stored=stored, waits=not same)
            if same:
                return self._create_at_once(tx, whole, source, origin)
            held_pin = new_id("copy")
            self._contents.keep_also(tx, source_id, also=held_pin)
            return self._begin_creation(tx, whole, origin, held_pin=held_pin)

        return self._named(spec, lambda: self._changes.run(origin, work))

    def update(self, image_id: str, values: Mapping[str, Any], paths: Collection[str], origin: Origin) -> Operation:
        """Give the fields `paths` of an image these values; none means all that can be updated. Done at once.

        A min_disk_size of 0 becomes the smallest that is allowed. Raises AlreadyExists, NotFound, PermissionDenied,
        FailedPrecondition while the image is being created, and InvalidRequest for a min_disk_size that is too small.
        """
        chosen = {name: values[name] for name in paths or UPDATABLE}
        folder: list[str] = []

        def work(tx: Connection) -> Operation:
            image = find(tx, image_id, origin.caller, Action.IMAGES_UPDATE, lock=True)
            if image.content is None:
                raise self._being_created(tx, image_id)
            folder[:] = [image.spec.folder_id]
            new = dict(chosen)
            if "min_disk_size" in new:
                new["min_disk_size"] = chosen_disk_size(new["min_disk_size"], image.content.virtual_size)
            changed = image_rows.update(tx, image_id, new) if new else image
            if changed is None:
                raise NotFound(f"image {shown(image_id)} is not there")
            response = convert.image_message(changed).SerializeToString()
            return self._ended(tx, OperationKind.UPDATE_IMAGE, image, origin, response)

        return self._unless_taken(str(chosen.get("name", "")), folder, lambda: self._changes.run(origin, work))

    def delete(self, image_id: str, origin: Origin) -> Operation:
        """Remove an image and let go of its content in one transaction; the operation returned is done.

        Raises NotFound, PermissionDenied; FailedPrecondition while the image is being created.
        """

        def work(tx: Connection) -> Operation:
            image = find(tx, image_id, origin.caller, Action.IMAGES_DELETE, lock=True)
            if image.status is ImageStatus.CREATING:
                raise self._being_created(tx, image_id)
            self._contents.let_go(tx, image_id)
            binding_rows.remove_all(tx, image_id)
            if not image_rows.delete(tx, image_id, status=image.status):
                raise NotFound(f"image {shown(image_id)} is not there")
            return self._ended(tx, OperationKind.DELETE_IMAGE, image, origin, b"")

        return self._changes.run(origin, work)

    def _begin_creation(
        self,
        tx: Connection,
        spec: ImageSpec,
        origin: Origin,
        *,
        source: bytes | None = None,
        held_pin: str | None = None,
    ) -> Operation:
        image = Image(
            id=new_id(IMAGE_ID_PREFIX), spec=spec, status=ImageStatus.CREATING, created_at_us=now_us(), content=None
        )
        operation = new_operation(
            OperationKind.CREATE_IMAGE,
            image_id=image.id,
            folder_id=spec.folder_id,
            origin=origin,
            source=source,
            held_pin=held_pin,
            folder_bytes_max=self._quotas.bytes,
        )
        image_rows.insert(tx, image)
        operation_rows.insert(tx, operation)
        return operation

    def _create_at_once(self, tx: Connection, spec: ImageSpec, source: Image, origin: Origin) -> Operation:
        image = Image(
            id=new_id(IMAGE_ID_PREFIX),
            spec=spec,
            status=ImageStatus.READY,
            created_at_us=now_us(),
            content=source.content,
        )
        image_rows.insert(tx, image)
        self._contents.keep_also(tx, source.id, also=image.id)
        response = convert.image_message(image).SerializeToString()
        return self._ended(tx, OperationKind.CREATE_IMAGE, image, origin, response)

    def _ended(self, tx: Connection, kind: OperationKind, image: Image, origin: Origin, response: bytes) -> Operation:
        operation = new_operation(
            kind, image_id=image.id, folder_id=image.spec.folder_id, origin=origin, response=response
        )
        operation_rows.insert(tx, operation)
        return operation

    def _being_created(self, tx: Connection, image_id: str) -> FailedPrecondition:
        creating = operation_rows.creating(tx, image_id)
        cancel = f": wait for operation {creating.id}, or cancel it" if creating is not None else ""
        return FailedPrecondition(f"image {shown(image_id)} is being created{cancel}", subject=f"image:{image_id}")

    def _named(self, spec: ImageSpec, run: Any) -> Operation:
        return self._unless_taken(spec.name, [spec.folder_id], run)

    def _unless_taken(self, name: str, folder: Sequence[str], run: Any) -> Operation:
        """Return what `run` returns, and say so when it fails because the name is taken."""
        try:
            operation: Operation = run()
        except IntegrityError as error:
            with self._database.read() as tx:
                taken = bool(name and folder) and image_rows.name_taken(tx, folder_id=folder[0], name=name)
            if not taken:
                raise
            where = f"in folder {shown(folder[0])}"
            raise AlreadyExists(f"image name {shown(name)} is taken {where}: choose another") from error
        return operation
