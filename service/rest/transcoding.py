"""Between HTTP and protobuf messages: bodies and answers are canonical JSON, the rest of a request is its query."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import any_pb2, json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from service.faults import InvalidRequest, Violation, shown
from service.redact import one_line

HTTP_STATUS: Mapping[int, int] = {
    code_pb2.OK: 200,
    code_pb2.CANCELLED: 499,
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.DEADLINE_EXCEEDED: 504,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.ABORTED: 409,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.UNAUTHENTICATED: 401,
}
"""Every other code is 500."""

_FIELD_MASK = "google.protobuf.FieldMask"
_TRUE, _FALSE = "true", "false"


def read_request(
    message: Message, *, body: bytes | None, variables: Mapping[str, str], query: Iterable[tuple[str, str]]
) -> None:
    """Fill `message` from an HTTP request. Raises InvalidRequest that names what is not understood.

    Variables of the path win over what the body says of the same field.
    """
    if body is not None:
        if body.strip()[:1] not in (b"{", b""):
            raise InvalidRequest([Violation("body", "is not a JSON object")])
        try:
            json_format.Parse(body.strip() or b"{}", message)
        except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest([Violation("body", one_line(str(error), 300))]) from error
    values = _tree(message.DESCRIPTOR, query)
    for name, value in variables.items():
        message.ClearField(name)
        values[name] = value
    try:
        json_format.ParseDict(values, message)
    except (json_format.ParseError, RecursionError) as error:
        raise InvalidRequest([Violation("query", one_line(str(error), 300))]) from error


def answer(message: Message) -> bytes:
    """Return a message as canonical JSON."""
    return json_format.MessageToJson(message, indent=None).encode()


def error_answer(status: status_pb2.Status, request_id: str) -> bytes:
    """Return an error as google.rpc.Status; `request_id`, when there is one, goes into its details."""
    if request_id:
        packed = any_pb2.Any()
        packed.Pack(error_details_pb2.RequestInfo(request_id=request_id))
        status.details.append(packed)
    try:
        return answer(status)
    except (TypeError, ValueError, KeyError):  # a detail of a type that is not known here
        return json.dumps({"code": status.code, "message": status.message}).encode()


def _tree(descriptor: Any, query: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the parameters of a query as the JSON object that they stand for."""
    tree: dict[str, Any] = {}
    for name, value in query:
        place, inside = tree, descriptor
        *parents, last = name.split(".")
        for parent in parents:
            field = _field(inside, parent, name)
            if field.message_type is None or field.is_repeated:
                raise _unknown(name)
            place, inside = place.setdefault(field.name, {}), field.message_type
        _put(place, _field(inside, last, name), name, value)
    return tree


def _put(place: dict[str, Any], field: FieldDescriptor, name: str, value: str) -> None:
    if field.message_type is not None and field.message_type.full_name != _FIELD_MASK:
        raise _unknown(name)
    given: Any = value
    if field.type == FieldDescriptor.TYPE_BOOL:
        if value not in (_TRUE, _FALSE):
            raise InvalidRequest([Violation(name, f"{shown(value)} is neither true nor false")])
        given = value == _TRUE
    if field.is_repeated:
        place.setdefault(field.name, []).append(given)
    elif field.name in place:
        raise InvalidRequest([Violation(shown(name), "is there more than once")])
    else:
        place[field.name] = given


def _field(descriptor: Any, part: str, name: str) -> FieldDescriptor:
    fields: Sequence[FieldDescriptor] = descriptor.fields
    for field in fields:
        if part in (field.json_name, field.name):
            return field
    raise _unknown(name)


def _unknown(name: str) -> InvalidRequest:
    return InvalidRequest([Violation(shown(name), "is no parameter of this call")])
