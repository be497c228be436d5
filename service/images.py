"""Use cases of images: made from a URL, from other images, from snapshots and from disks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy.engine import Connection

from dataplane.errors import NotFound
from service import limits
from service.auth import Action, Caller, Verb
from service.catalog import image_rows
from service.catalog.database import Database
from service.contents import Contents
from service.faults import shown
from service.holding import DiskHolder
from service.inheriting import inherit
from service.kinds import DISK, IMAGE, Kind
from service.model import Image, ImageSpec, Operation, Resource, chosen_disk_size
from service.origin import Origin
from service.quotas import Quotas
from service.resources import Resources, found_ready, require_disk_idle
from service.sealing import Sealer
from service.visibility import require_folder


class Images(Resources[ImageSpec]):
    """What can be done with images, for callers whose requests have been checked."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        contents: Contents,
        quotas: Quotas | None = None,
        holder: DiskHolder | None = None,
    ) -> None:
        super().__init__(IMAGE, database, sealer, contents, quotas, holder)

    def latest_of_family(self, folder_id: str, family: str, caller: Caller) -> Image:
        """Return the newest READY image of a family. Raises NotFound or PermissionDenied."""
        require_folder(folder_id, caller, Action.IMAGES_GET)
        with self._database.read() as tx:
            image = image_rows.latest_of_family(tx, folder_id=folder_id, family=family) if family else None
        if image is None:
            raise NotFound(f"folder {shown(folder_id)} has no image of family {shown(family)} that is ready")
        return image

    def create(self, spec: ImageSpec, uri: str, origin: Origin) -> Operation:
        """Commit an image that is being created and the operation that will import it from `uri`; return the latter.

        Raises AlreadyExists when the folder has an image of this name, QuotaExceeded, NotFound or PermissionDenied.
        """
        sealed = self._sealer.seal(uri)
        whole = inherit(spec, None)

        def work(tx: Connection) -> Operation:
            return self._begin(tx, whole, origin, source=sealed)

        return self._create(spec, origin, work)

    def create_from(self, kind: Kind[Any], spec: ImageSpec, source_id: str, origin: Origin) -> Operation:
        """Commit an image with the content of another image or of a snapshot; return its operation.

        Within a folder that is done at once. Folders share no chunk ids, so from another folder a worker has to copy;
        until then the store keeps the content, whatever happens to the source. Raises what ``create`` does,
        FailedPrecondition unless the source is READY, and InvalidRequest for a min_disk_size that is too small.
        """

        def work(tx: Connection) -> Operation:
            source: Resource[Any] = found_ready(tx, kind, source_id, origin, Verb.GET)
            content = source.content
            if content is None:
                raise NotFound(f"{kind.word} {shown(source_id)} has no content")
            size = chosen_disk_size(spec.min_disk_size, content.virtual_size)
            whole = inherit(replace(spec, min_disk_size=size), source.spec)
            if source.spec.folder_id != spec.folder_id:
                return self._begin(tx, whole, origin, held_pin=self._held(tx, source_id))
            limits.check_new_image(tx, spec, self._quotas, stored=content.storage_size, waits=False)
            return self._create_at_once(tx, whole, origin, source)

        return self._create(spec, origin, work)

    def create_from_disk(self, spec: ImageSpec, disk_id: str, origin: Origin) -> Operation:
        """Commit an image that is being created and the operation that will take the disk's content; return the latter.

        Raises what ``create_from`` does, and FailedPrecondition while another operation takes the disk's content.
        """

        def work(tx: Connection) -> Operation:
            disk = found_ready(tx, DISK, disk_id, origin, Verb.GET)
            require_disk_idle(tx, disk_id)
            size = chosen_disk_size(spec.min_disk_size, disk.spec.size)
            whole = inherit(replace(spec, min_disk_size=size), disk.spec)
            return self._begin(tx, whole, origin, disk_id=disk_id)

        self._hold_disk(disk_id, origin)
        return self._create(spec, origin, work)

    def _begin(self, tx: Connection, spec: ImageSpec, origin: Origin, **how: Any) -> Operation:
        """Begin a creation whose operation will find out how much the image stores."""
        limits.check_new_image(tx, spec, self._quotas, stored=0, waits=True)
        return self._begin_creation(tx, spec, origin, folder_bytes_max=self._quotas.bytes, **how)

    def _checked(self, tx: Connection, resource: Image, values: dict[str, Any]) -> dict[str, Any]:
        """A min_disk_size of 0 becomes the smallest that is allowed."""
        if "min_disk_size" in values and resource.content is not None:
            size = chosen_disk_size(values["min_disk_size"], resource.content.virtual_size)
            return values | {"min_disk_size": size}
        return values
