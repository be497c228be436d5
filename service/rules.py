"""Constraints on the fields of a request, to be put together into tables; all of them are pure functions.

Lengths are in characters, patterns match the whole value, zero of a ranged number means "not given". Strings with the
character NUL are refused, because not every database stores them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from service.faults import Violation, shown

URI_LENGTH_MAX = 8192
"""Not a rule of the public API: a bound on what is stored and sent. Pre-signed links are about 1,000 characters."""

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
        value = _at(request, name)
        yield from (Violation(name, problem) for problem in rule.problems(value))

    return check


def texts(name: str, **constraints: Any) -> Rule:
    """Constrain each string of the repeated field `name`."""
    rule = Text(**constraints)

    def check(request: Any) -> Iterator[Violation]:
        for index, value in enumerate(getattr(request, name)):
            yield from (Violation(f"{name}[{index}]", problem) for problem in rule.problems(value))

    return check


def number(name: str, *, low: int, high: int, required: bool = False) -> Rule:
    """Constrain the integer in field `name`, which may be a dotted path, to `[low, high]`; zero is "not given"."""

    def check(request: Any) -> Iterator[Violation]:
        value = _at(request, name)
        if required and not value:
            yield Violation(name, "is required")
        elif value and not low <= value <= high:
            yield Violation(name, f"{value} is not in the range {low} to {high}")

    return check


def choice(name: str, values: Collection[int]) -> Rule:
    """Constrain the enumeration at the dotted path `name` to numbers that are known."""

    def check(request: Any) -> Iterator[Violation]:
        value = _at(request, name)
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


def one_of(name: str, *, required: bool = True, **members: Rule) -> Rule:
    """Ask for one member of the oneof `name`, exactly one if it is required, and check the one that is set."""

    def check(request: Any) -> Iterator[Violation]:
        member = request.WhichOneof(name)
        if member is not None:
            yield from members[member](request)
        elif required:
            yield Violation(name, f"is required: set one of {', '.join(members)}")

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


def _at(request: Any, path: str) -> Any:
    """Return what a message has at a dotted path."""
    value = request
    for part in path.split("."):
        value = getattr(value, part)
    return value
