"""Use cases of images: each is one transaction over the catalogue and, for content, over the store's ledger."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence

from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from dataplane.errors import AlreadyExists, NotFound
from service.catalog import image_rows, operation_rows
from service.catalog.database import Database
from service.faults import FailedPrecondition, InvalidRequest, Violation, shown
from service.model import (
    IMAGE_ID_PREFIX,
    OPERATION_ID_PREFIX,
    Image,
    ImageSpec,
    ImageStatus,
    Operation,
    OperationKind,
    new_id,
    now_us,
)
from service.sealing import Sealer

PAGE_SIZE_DEFAULT = 100
_NAME_FILTER = re.compile(
    r"""\s*name\s*=\s*(?:"(?P<double>[-_a-z0-9]*)"|'(?P<single>[-_a-z0-9]*)')\s*""", re.IGNORECASE
)
_ORDERS = ("", "id", "id asc")


Unpin = Callable[[Connection, str], None]
"""Lets go of the content of an image, inside a transaction."""


class Images:
    """What can be done with images, for callers that have been checked."""

    def __init__(self, database: Database, sealer: Sealer, unpin: Unpin) -> None:
        self._database = database
        self._sealer = sealer
        self._unpin = unpin

    def get(self, image_id: str) -> Image:
        """Return an image. Raises NotFound."""
        with self._database.read() as tx:
            return _found(image_rows.get(tx, image_id), image_id)

    def list(
        self, folder_id: str, *, page_size: int, page_token: str, filter_text: str, order_by: str
    ) -> tuple[Sequence[Image], str]:
        """Return one page of a folder's images in order of id, and the token of the next page, empty at the end.

        The token holds the last id seen, so that images created or deleted meanwhile shift nothing. Raises
        InvalidRequest for a token, filter or order that is not understood.
        """
        if " ".join(order_by.split()).lower() not in _ORDERS:
            raise InvalidRequest([Violation("order_by", "only 'id asc' is offered")])
        name = _name_filter(filter_text)
        after_id = _after_id(page_token, folder_id=folder_id, filter_text=filter_text)
        limit = page_size or PAGE_SIZE_DEFAULT
        with self._database.read() as tx:
            rows = image_rows.page(tx, folder_id=folder_id, after_id=after_id, name=name, limit=limit + 1)
        if len(rows) <= limit:
            return rows, ""
        rows = rows[:limit]
        return rows, _page_token(rows[-1].id, folder_id=folder_id, filter_text=filter_text)

    def create(self, spec: ImageSpec, uri: str, *, created_by: str) -> Operation:
        """Commit an image that is being created and the operation that will import it from `uri`; return the latter.

        Raises AlreadyExists when the folder has an image of this name.
        """
        sealed = self._sealer.seal(uri)

        def work(tx: Connection) -> Operation:
            time_us = now_us()
            image = Image(
                id=new_id(IMAGE_ID_PREFIX), spec=spec, status=ImageStatus.CREATING, created_at_us=time_us, content=None
            )
            operation = _operation(OperationKind.CREATE_IMAGE, image, created_by=created_by, source=sealed)
            image_rows.insert(tx, image)
            operation_rows.insert(tx, operation)
            return operation

        try:
            return self._database.write(work)
        except IntegrityError as error:
            with self._database.read() as tx:
                taken = bool(spec.name) and image_rows.name_taken(tx, folder_id=spec.folder_id, name=spec.name)
            if not taken:
                raise
            where = f"in folder {shown(spec.folder_id)}"
            raise AlreadyExists(f"image name {shown(spec.name)} is taken {where}: choose another") from error

    def delete(self, image_id: str, *, created_by: str) -> Operation:
        """Remove an image and let go of its content in one transaction; the operation returned is done.

        Raises NotFound; FailedPrecondition while the image is being created.
        """

        def work(tx: Connection) -> Operation:
            image = _found(image_rows.get(tx, image_id), image_id)
            if image.status is ImageStatus.CREATING:
                creating = operation_rows.creating(tx, image_id)
                cancel = f": cancel operation {creating.id}, or wait for it" if creating is not None else ""
                raise FailedPrecondition(f"image {shown(image_id)} is being created{cancel}")
            self._unpin(tx, image_id)
            if not image_rows.delete(tx, image_id, status=image.status):
                raise NotFound(f"image {shown(image_id)} is not there")
            operation = _operation(OperationKind.DELETE_IMAGE, image, created_by=created_by, response=b"")
            operation_rows.insert(tx, operation)
            return operation

        return self._database.write(work)


def _operation(
    kind: OperationKind, image: Image, *, created_by: str, source: bytes | None = None, response: bytes | None = None
) -> Operation:
    time_us = now_us()
    return Operation(
        id=new_id(OPERATION_ID_PREFIX),
        kind=kind,
        image_id=image.id,
        folder_id=image.spec.folder_id,
        created_at_us=time_us,
        created_by=created_by,
        modified_at_us=time_us,
        done=response is not None,
        error=None,
        response=response,
        source=source,
        epoch=0,
        attempts=0,
        cancel_requested=False,
        progress=None,
    )


def _found(image: Image | None, image_id: str) -> Image:
    if image is None:
        raise NotFound(f"image {shown(image_id)} is not there")
    return image


def _name_filter(text: str) -> str | None:
    if not text.strip():
        return None
    match = _NAME_FILTER.fullmatch(text)
    if match is None:
        raise InvalidRequest([Violation("filter", 'only name="…" is offered')])
    name = match["double"] if match["double"] is not None else match["single"]
    return str(name)


def _page_token(last_id: str, *, folder_id: str, filter_text: str) -> str:
    return base64.urlsafe_b64encode(_query_mark(folder_id, filter_text) + last_id.encode()).decode()


def _after_id(token: str, *, folder_id: str, filter_text: str) -> str:
    """Return the id that a page token holds. Raises InvalidRequest when it was not issued for this list."""
    if not token:
        return ""
    wrong = InvalidRequest([Violation("page_token", "was not issued for this list: start again without it")])
    try:
        mark_and_id = base64.b64decode(token, altchars=b"-_", validate=True)
        mark, last_id = mark_and_id[:6], mark_and_id[6:].decode("ascii")
    except (binascii.Error, ValueError) as error:
        raise wrong from error
    if mark != _query_mark(folder_id, filter_text) or not last_id.isalnum():
        raise wrong
    return last_id


def _query_mark(folder_id: str, filter_text: str) -> bytes:
    return hashlib.sha256(f"{folder_id}\0{filter_text}".encode()).digest()[:6]
