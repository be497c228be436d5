"""What a list may be asked for: fields to filter and order by, and tokens that say where a page begins."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from service.catalog.schema import disks, images, snapshots
from service.faults import InvalidRequest, Violation, shown
from service.filtering import Condition, parse, wrong
from service.model import Status

PAGE_SIZE_DEFAULT = 100
INTEGER_MAX = (1 << 63) - 1
_STATUSES = {status.name: int(status) for status in Status}
Columns = Mapping[str, sa.ColumnElement[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The columns that lists of one kind know, by their names in JSON.

    All can be filtered by, and all but `free_texts`, which may not fit into a token, can be ordered by.
    """

    table: sa.Table
    texts: Columns
    free_texts: Columns = field(default_factory=dict)
    sizes: Columns

    @property
    def numbers(self) -> Columns:
        """Return the columns that are numbers to order by."""
        columns = self.table.c
        return {"createdAt": columns.created_at_us, **self.sizes, "status": columns.status}

    @property
    def filtered(self) -> list[str]:
        """Return the names of what can be filtered by."""
        return [*self.texts, *self.free_texts, "status", *self.sizes, "labels.KEY"]


IMAGE_FIELDS = Fields(
    table=images,
    texts={"id": images.c.id, "name": images.c.name, "family": images.c.family},
    sizes={"minDiskSize": images.c.min_disk_size, "storageSize": sa.func.coalesce(images.c.storage_size, 0)},
)
DISK_FIELDS = Fields(
    table=disks,
    texts={"id": disks.c.id, "name": disks.c.name, "typeId": disks.c.type_id},
    free_texts={
        "zoneId": disks.c.zone_id,
        "sourceImageId": disks.c.source_image_id,
        "sourceSnapshotId": disks.c.source_snapshot_id,
    },
    sizes={"size": disks.c.size},
)
SNAPSHOT_FIELDS = Fields(
    table=snapshots,
    texts={"id": snapshots.c.id, "name": snapshots.c.name},
    free_texts={"sourceDiskId": snapshots.c.source_disk_id},
    sizes={"diskSize": snapshots.c.disk_size, "storageSize": sa.func.coalesce(snapshots.c.storage_size, 0)},
)
_LABEL = re.compile(r"labels\.([a-z][-_./@0-9a-z]{0,62})")
_DIRECTIONS = {"": False, "asc": False, "desc": True}
_TOKEN = re.compile(r"([-_A-Za-z0-9]{8})([a-z0-9]{20})([-_a-z0-9]*)")


class Listing:
    """One list of what a folder has, whichever page of it. Raises InvalidRequest for what is not understood."""

    def __init__(self, fields: Fields, folder_id: str, *, filter_text: str, order_by: str) -> None:
        self.where = [_clause(fields, condition) for condition in parse(filter_text)]
        numbers = fields.numbers
        name, self.descending = _order((*fields.texts, *numbers), order_by)
        self._is_number = name in numbers
        self.order = numbers[name] if self._is_number else fields.texts[name]
        query = f"{folder_id}\0{filter_text}\0{order_by}"
        self._mark = base64.urlsafe_b64encode(hashlib.sha256(query.encode()).digest()[:6]).decode()

    def token(self, resource_id: str, value: Any) -> str:
        """Return the token of the page behind a resource and the value it is ordered by: at most 91 characters."""
        return f"{self._mark}{resource_id}{value}"

    def after(self, token: str) -> tuple[Any, str] | None:
        """Return the value and the id that a page begins behind. Raises InvalidRequest for a token of another list."""
        if not token:
            return None
        match = _TOKEN.fullmatch(token)
        if match is None or match[1] != self._mark:
            raise not_issued()
        if not self._is_number:
            return match[3], match[2]
        if re.fullmatch(r"[0-9]{1,19}", match[3]) is None or int(match[3]) > INTEGER_MAX:
            raise not_issued()
        return int(match[3]), match[2]


def not_issued() -> InvalidRequest:
    """Return the refusal of a page token."""
    return InvalidRequest([Violation("page_token", "was not issued for this list: start again without it")])


def _order(known: tuple[str, ...], text: str) -> tuple[str, bool]:
    words = text.split()
    name, direction = _camel(words[0] if words else "id"), words[1].lower() if len(words) > 1 else ""
    if name not in known or direction not in _DIRECTIONS or len(words) > 2:
        raise InvalidRequest([Violation("order_by", f"is not one of {', '.join(known)}, and then asc or desc")])
    return name, _DIRECTIONS[direction]


def _clause(fields: Fields, condition: Condition) -> sa.ColumnElement[bool]:
    column, values = _column_and_values(fields, condition)
    return column.not_in(values) if condition.negated else column.in_(values)


def _column_and_values(fields: Fields, condition: Condition) -> tuple[sa.ColumnElement[Any], list[Any]]:
    if any("\0" in value for value in condition.values):
        raise wrong("holds the character NUL")
    label = _LABEL.fullmatch(condition.field)
    if label is not None:  # a label that is not there is like an empty one
        return sa.func.coalesce(fields.table.c.labels[label[1]].as_string(), ""), list(condition.values)
    name = _camel(condition.field)
    for texts in (fields.texts, fields.free_texts):
        if name in texts:
            return texts[name], list(condition.values)
    if name == "status":
        return fields.table.c.status, [_status(value) for value in condition.values]
    if name in fields.sizes:
        return fields.sizes[name], [_integer(value) for value in condition.values]
    raise wrong(f"{shown(condition.field)} is none of {', '.join(fields.filtered)}")


def _status(value: str) -> int:
    if value.upper() not in _STATUSES:
        raise wrong(f"{shown(value)} is none of the statuses {', '.join(_STATUSES)}")
    return _STATUSES[value.upper()]


def _integer(value: str) -> int:
    if re.fullmatch(r"[0-9]{1,19}", value) is None or int(value) > INTEGER_MAX:
        raise wrong(f"{shown(value)} is not a number of bytes")
    return int(value)


def _camel(field: str) -> str:
    """Return a field's name as JSON has it, however it was written."""
    head, *rest = field.split("_")
    return head + "".join(word.capitalize() for word in rest)
