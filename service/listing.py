"""What a list of images may be asked for: fields to filter and order by, and tokens that say where a page begins."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from service.catalog.schema import images
from service.faults import InvalidRequest, Violation, shown
from service.filtering import Condition, parse, wrong
from service.model import ImageStatus

PAGE_SIZE_DEFAULT = 100
INTEGER_MAX = (1 << 63) - 1
_STATUSES = {status.name: int(status) for status in ImageStatus}
_TEXTS: Mapping[str, sa.ColumnElement[Any]] = {
    "id": images.c.id, "name": images.c.name, "family": images.c.family,
}  # fmt: skip
_NUMBERS: Mapping[str, sa.ColumnElement[Any]] = {
    "createdAt": images.c.created_at_us,
    "minDiskSize": images.c.min_disk_size,
    "storageSize": sa.func.coalesce(images.c.storage_size, 0),
    "status": images.c.status,
}
_LABEL = re.compile(r"labels\.([a-z][-_./@0-9a-z]{0,62})")
_DIRECTIONS = {"": False, "asc": False, "desc": True}
_TOKEN = re.compile(r"([-_A-Za-z0-9]{8})([a-z0-9]{20})([-_a-z0-9]*)")


class Listing:
    """One list of a folder's images, whichever page of it. Raises InvalidRequest for what is not understood."""

    def __init__(self, folder_id: str, *, filter_text: str, order_by: str) -> None:
        self.folder_id = folder_id
        self.where = [_clause(condition) for condition in parse(filter_text)]
        field, self.descending = _order(order_by)
        self.order = _TEXTS[field] if field in _TEXTS else _NUMBERS[field]
        self._is_number = field in _NUMBERS
        query = f"{folder_id}\0{filter_text}\0{order_by}"
        self._mark = base64.urlsafe_b64encode(hashlib.sha256(query.encode()).digest()[:6]).decode()

    def token(self, image_id: str, value: Any) -> str:
        """Return the token of the page behind an image and the value it is ordered by: at most 91 characters."""
        return f"{self._mark}{image_id}{value}"

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


def _order(text: str) -> tuple[str, bool]:
    words = text.split()
    field, direction = _camel(words[0] if words else "id"), words[1].lower() if len(words) > 1 else ""
    if not (field in _TEXTS or field in _NUMBERS) or direction not in _DIRECTIONS or len(words) > 2:
        fields = ", ".join([*_TEXTS, *_NUMBERS])
        raise InvalidRequest([Violation("order_by", f"is not one of {fields}, and then asc or desc")])
    return field, _DIRECTIONS[direction]


def _clause(condition: Condition) -> sa.ColumnElement[bool]:
    column, values = _column_and_values(condition)
    return column.not_in(values) if condition.negated else column.in_(values)


def _column_and_values(condition: Condition) -> tuple[sa.ColumnElement[Any], list[Any]]:
    if any("\0" in value for value in condition.values):
        raise wrong("holds the character NUL")
    label = _LABEL.fullmatch(condition.field)
    if label is not None:  # a label that an image does not have is like an empty one
        return sa.func.coalesce(images.c.labels[label[1]].as_string(), ""), list(condition.values)
    field = _camel(condition.field)
    if field in _TEXTS:
        return _TEXTS[field], list(condition.values)
    if field == "status":
        return images.c.status, [_status(value) for value in condition.values]
    if field == "minDiskSize":
        return images.c.min_disk_size, [_integer(value) for value in condition.values]
    raise wrong(f"{shown(condition.field)} is none of id, name, family, status, minDiskSize and labels.KEY")


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
