"""Which HTTP request is which call, as the `google.api.http` options of the protos say; nothing is listed by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from google.api import annotations_pb2, http_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FileDescriptor, MethodDescriptor
from google.protobuf.message import Message

_VARIABLE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
ALSO_POST = ("yandex.cloud.operation.OperationService.Cancel",)
"""Calls whose option says GET although they change something; the public documentation says POST. Both are served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One call as HTTP knows it. `body` is ``*`` when the request's message is the body, empty when there is none."""

    verb: str
    template: str
    body: str
    method: MethodDescriptor
    pattern: re.Pattern[str]

    @property
    def path(self) -> str:
        """Return the path of the gRPC call."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def variables(self) -> tuple[str, ...]:
        """Return the fields that stand in the path."""
        return tuple(_VARIABLE.findall(self.template))

    def new_request(self) -> Message:
        """Return an empty request."""
        return class_of(self.method.input_type)()

    def answer_class(self) -> type[Message]:
        """Return the class of answers."""
        return class_of(self.method.output_type)


class Routes:
    """Every route, found by verb and path."""

    def __init__(self, files: Iterable[FileDescriptor]) -> None:
        self.all = tuple(route for file in files for route in _routes(file))

    def find(self, verb: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """Return the route of a request and the values of the variables in its path, or None.

        `path` is as it came, percent signs and all: an escaped slash is part of a value.
        """
        for route in self.all:
            if route.verb == verb and (match := route.pattern.fullmatch(path)):
                return route, {name: unquote(value) for name, value in match.groupdict().items()}
        return None

    def verbs_of(self, path: str) -> list[str]:
        """Return the verbs that a path has."""
        return sorted({route.verb for route in self.all if route.pattern.fullmatch(path)})


def class_of(descriptor: Descriptor) -> type[Message]:
    """Return the class of a message."""
    found: type[Message] = message_factory.GetMessageClass(descriptor)
    return found


def _routes(file: FileDescriptor) -> Iterator[Route]:
    for service in file.services_by_name.values():
        for method in service.methods:
            options: Any = method.GetOptions()
            if not options.HasExtension(annotations_pb2.http) or method.server_streaming or method.client_streaming:
                continue
            rule = options.Extensions[annotations_pb2.http]
            for binding in (rule, *rule.additional_bindings):
                yield from _bindings(method, binding)


def _bindings(method: MethodDescriptor, rule: http_pb2.HttpRule) -> Iterator[Route]:
    verb = rule.WhichOneof("pattern")
    template = getattr(rule, verb)
    if rule.body not in ("", "*"):
        raise ValueError(f"{method.full_name}: a body of one field is not served")
    pattern = re.compile(_VARIABLE.sub(r"(?P<\1>[^/:]+)", re.escape(template).replace(r"\{", "{").replace(r"\}", "}")))
    verbs = [verb.upper(), *(["POST"] if method.full_name in ALSO_POST else [])]
    for each in verbs:
        yield Route(verb=each, template=template, body=rule.body, method=method, pattern=pattern)
