"""What a request may hold: one table of constraints for each message, checked by pure functions.

Lengths are in characters, patterns match the whole value, zero of a ranged number means "not given". Every wrong field
of a request is reported at once. Strings with the character NUL are refused, because not every database stores them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from google.protobuf.message import Message

from service._pb.dataplane.v1 import image_details_pb2 as details
from service._pb.yandex.cloud.access import access_pb2 as access
from service._pb.yandex.cloud.compute.v1 import hardware_generation_pb2, image_pb2
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.iam.v1 import iam_token_service_pb2 as iam
from service._pb.yandex.cloud.operation import operation_service_pb2 as operations
from service.faults import InvalidRequest, Violation, shown

ID_LENGTH_MAX = 50
URI_LENGTH_MAX = 8192
"""Not a rule of the public API: a bound on what is stored and sent. Pre-signed links are about 1,000 characters."""

NAME = re.compile(r"(?:|[a-z](?:[-_a-z0-9]{0,61}[a-z0-9])?)")
FAMILY = re.compile(r"(?:|[a-z][-a-z0-9]{1,61}[a-z0-9])")
LABEL_KEY = re.compile(r"[a-z][-_./\@0-9a-z]*")
LABEL_VALUE = re.compile(r"[-_./\@0-9a-z]*")
_URI_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f\\]")


class Rule(Protocol):
    """One constraint: yields what is wrong with a request, nothing when it is right."""

    def __call__(self, request: Any) -> Iterator[Violation]:
        """Check `request`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A constraint on one string, whatever field it came from."""

    required: bool = False
    length_max: int | None = None
    pattern: re.Pattern[str] | None = None

    def problems(self, value: str) -> Iterator[str]:
        """Yield what is wrong with `value`."""
        if self.required and not value:
            yield "is required"
        if self.length_max is not None and len(value) > self.length_max:
            yield f"has {len(value)} characters, at most {self.length_max} are allowed"
        elif self.pattern is not None and self.pattern.fullmatch(value) is None:
            yield f"{shown(value)} does not match {self.pattern.pattern.replace('?:', '')}"
        elif "\0" in value:
            yield "holds the character NUL"


def text(name: str, **constraints: Any) -> Rule:
    """Constrain the string in field `name`, which may be a dotted path."""
    rule = Text(**constraints)

    def check(request: Any) -> Iterator[Violation]:
        value = request
        for part in name.split("."):
            value = getattr(value, part)
        yield from (Violation(name, problem) for problem in rule.problems(value))

    return check


def texts(name: str, **constraints: Any) -> Rule:
    """Constrain each string of the repeated field `name`."""
    rule = Text(**constraints)

    def check(request: Any) -> Iterator[Violation]:
        for index, value in enumerate(getattr(request, name)):
            yield from (Violation(f"{name}[{index}]", problem) for problem in rule.problems(value))

    return check


def number(name: str, *, low: int, high: int) -> Rule:
    """Constrain the integer in field `name` to `[low, high]`; zero is "not given"."""

    def check(request: Any) -> Iterator[Violation]:
        value = getattr(request, name)
        if value and not low <= value <= high:
            yield Violation(name, f"{value} is not in the range {low} to {high}")

    return check


def choice(name: str, values: Collection[int]) -> Rule:
    """Constrain the enumeration at the dotted path `name` to numbers that are known."""

    def check(request: Any) -> Iterator[Violation]:
        value = request
        for part in name.split("."):
            value = getattr(value, part)
        if value not in values:
            yield Violation(name, f"{value} is not a value of the enumeration")

    return check


def mapping(name: str, *, size_max: int, key: Text, value: Text) -> Rule:
    """Constrain the number of entries of a map field, its keys and its values."""

    def check(request: Any) -> Iterator[Violation]:
        entries: Mapping[str, str] = getattr(request, name)
        if len(entries) > size_max:
            yield Violation(name, f"has {len(entries)} entries, at most {size_max} are allowed")
        for entry in sorted(entries):
            yield from (Violation(name, f"key {shown(entry)} {problem}") for problem in key.problems(entry))
            problems = value.problems(entries[entry])
            yield from (Violation(name, f"value of {shown(entry)} {problem}") for problem in problems)

    return check


def one_of(name: str, **members: Rule) -> Rule:
    """Ask for exactly one member of the oneof `name`, and check the one that is set."""

    def check(request: Any) -> Iterator[Violation]:
        member = request.WhichOneof(name)
        if member is None:
            yield Violation(name, f"is required: set one of {', '.join(members)}")
        else:
            yield from members[member](request)

    return check


def uri(request: Any) -> Iterator[Violation]:
    """An http or https URL with a host. What it holds is only seen when it is read."""
    value: str = request.uri
    if not value:
        yield Violation("uri", "is required")
    elif len(value) > URI_LENGTH_MAX:
        yield Violation("uri", f"has {len(value)} characters, at most {URI_LENGTH_MAX} are allowed")
    elif not is_web_url(value):
        yield Violation("uri", "is not an http or https URL with a host, or holds a space or a control character")


def is_web_url(value: str) -> bool:
    """Say whether `value` is a well-formed http(s) URL; nothing else may ever be opened as a source."""
    if _URI_FORBIDDEN.search(value):
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def each(name: str, *rules: Rule, size_min: int = 0, size_max: int) -> Rule:
    """Constrain the number of messages in the repeated field `name`, and each of them by rules of its own."""

    def check(request: Any) -> Iterator[Violation]:
        items = getattr(request, name)
        if not size_min <= len(items) <= size_max:
            yield Violation(name, f"has {len(items)} elements, {size_min} to {size_max} are allowed")
        for index, item in enumerate(items):
            for rule in rules:
                yield from (Violation(f"{name}[{index}].{one.field}", one.description) for one in rule(item))

    return check


def update_mask(*paths: str) -> Rule:
    """Constrain the paths of the field mask to fields that can be updated."""

    def check(request: Any) -> Iterator[Violation]:
        for path in request.update_mask.paths:
            if path not in paths:
                problem = f"{shown(path)} is not a field that can be updated: {', '.join(paths)}"
                yield Violation("update_mask", problem)

    return check


def _id(name: str) -> Rule:
    return text(name, required=True, length_max=ID_LENGTH_MAX)


LABELS = mapping(
    "labels",
    size_max=64,
    key=Text(required=True, length_max=63, pattern=LABEL_KEY),
    value=Text(length_max=63, pattern=LABEL_VALUE),
)
MIN_DISK_SIZE = number("min_disk_size", low=4194304, high=4398046511104)


def _binding(prefix: str = "") -> tuple[Rule, ...]:
    return (
        text(f"{prefix}role_id", required=True, length_max=64),
        text(f"{prefix}subject.id", required=True, length_max=100),
        text(f"{prefix}subject.type", required=True, length_max=100),
    )


RULES: dict[type[Message], tuple[Rule, ...]] = {
    images.GetImageRequest: (_id("image_id"),),
    images.DeleteImageRequest: (_id("image_id"),),
    images.ListImagesRequest: (
        _id("folder_id"),
        number("page_size", low=0, high=1000),
        text("page_token", length_max=100),
        text("filter", length_max=1000),
        text("order_by", length_max=100),
    ),
    images.CreateImageRequest: (
        _id("folder_id"),
        text("name", pattern=NAME),
        text("description", length_max=256),
        LABELS,
        text("family", pattern=FAMILY),
        MIN_DISK_SIZE,
        texts("product_ids", length_max=ID_LENGTH_MAX),
        one_of(
            "source",
            image_id=_id("image_id"),
            disk_id=_id("disk_id"),
            snapshot_id=_id("snapshot_id"),
            uri=uri,
        ),
        choice("os.type", image_pb2.Os.Type.values()),
        text("os.nvidia.driver", length_max=256),
        choice("hardware_generation.legacy_features.pci_topology", hardware_generation_pb2.PCITopology.values()),
        text("hardware_generation.generation2_features.secure_boot_template_id", length_max=256),
    ),
    images.GetImageLatestByFamilyRequest: (_id("folder_id"), text("family", pattern=FAMILY)),
    images.UpdateImageRequest: (
        _id("image_id"),
        update_mask("name", "description", "min_disk_size", "labels"),
        text("name", pattern=NAME),
        text("description", length_max=256),
        MIN_DISK_SIZE,
        LABELS,
    ),
    images.ListImageOperationsRequest: (
        _id("image_id"),
        number("page_size", low=0, high=1000),
        text("page_token", length_max=100),
    ),
    access.ListAccessBindingsRequest: (
        text("resource_id", required=True, length_max=64),
        number("page_size", low=0, high=1000),
        text("page_token", length_max=2000),
    ),
    access.SetAccessBindingsRequest: (
        text("resource_id", required=True, length_max=64),
        each("access_bindings", *_binding(), size_max=1000),
    ),
    access.UpdateAccessBindingsRequest: (
        text("resource_id", required=True, length_max=64),
        each(
            "access_binding_deltas",
            choice("action", (access.AccessBindingAction.ADD, access.AccessBindingAction.REMOVE)),
            *_binding("access_binding."),
            size_min=1,
            size_max=1000,
        ),
    ),
    operations.GetOperationRequest: (text("operation_id", required=True),),
    operations.CancelOperationRequest: (text("operation_id", required=True),),
    iam.CreateIamTokenRequest: (
        one_of(
            "identity",
            yandex_passport_oauth_token=text("yandex_passport_oauth_token", required=True, length_max=4000),
            jwt=text("jwt", required=True, length_max=8000),
        ),
    ),
    details.GetSizesRequest: (_id("image_id"),),
    details.GetProgressRequest: (_id("operation_id"),),
    details.WatchProgressRequest: (_id("operation_id"),),
    details.ReplaceSourceRequest: (_id("operation_id"), uri),
}


def violations(request: Message) -> list[Violation]:
    """Return everything that is wrong with `request`, in the order of its table."""
    return [violation for rule in RULES[type(request)] for violation in rule(request)]


def check(request: Message) -> None:
    """Raise InvalidRequest when anything is wrong with `request`."""
    found = violations(request)
    if found:
        raise InvalidRequest(found)
