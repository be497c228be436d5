"""Whatever a request holds, the server says what is wrong with it: never INTERNAL, never UNKNOWN."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.registration import SERVICES
from tests.service.control import TOKEN, ControlPlane, running
from tests.service.test_disk_calls import created, snapshot

EXPECTED = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED,
}  # fmt: skip
METHODS = sorted(
    f"/{service}/{method.name}"
    for service in SERVICES
    for method in descriptor_pool.Default().FindServiceByName(service).methods
    if method.name != "WatchProgress"
)
KNOWN_TEXTS = [
    "", "f1", "disk", "name", "createdAt desc", 'name="disk"', "status IN ('READY')", "labels.a != 'b'",
    "min_disk_size", "a\n", "network-ssd", "size", "disk_placement_policy",
    "https://h/a?x#y", "http://[::1", "\0", "é" * 60, "a" * 64, "k" * 2100, "yandex",
]  # fmt: skip
TEXT = st.one_of(st.sampled_from(KNOWN_TEXTS), st.text(max_size=30))
INTEGERS = [0, 1, -1, 1000, 1001, 4194304, 2**63 - 1, -(2**63)]
INTEGER = st.one_of(st.sampled_from(INTEGERS), st.integers(-(2**63), 2**63 - 1))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlPlane, list[str]]]:
    with running(tmp_path_factory.mktemp("fuzz")) as made:
        ready = made.ready(name="disk", labels={"a": "b"})
        disk, other = created(made, name="disk"), created(made, image_id=ready)
        snapshot(made, disk.id)
        taken = made.claimed()
        made.succeed(taken)
        snapshot(made, other.id)
        yield made, [ready, disk.id, other.id, taken.resource_id, made.create(name="other").id]


def value_of(field: Any, texts: st.SearchStrategy[str], depth: int) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return message_of(GetMessageClass(field.message_type), texts, depth + 1)
    if field.type == FieldDescriptor.TYPE_STRING:
        return texts
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_ENUM:
        return st.integers(-3, 5)
    if field.type == FieldDescriptor.TYPE_INT64:
        return INTEGER
    return st.integers(-(2**31), 2**31 - 1)


@st.composite
def message_of(draw: st.DrawFn, kind: type[Message], texts: st.SearchStrategy[str], depth: int = 0) -> Message:
    """Build a message from its descriptor, a few of its fields set."""
    made = kind()
    if depth > 4:
        return made
    for field in kind.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        message_type = field.message_type
        if message_type is not None and message_type.GetOptions().map_entry:
            getattr(made, field.name).update(draw(st.dictionaries(texts, texts, max_size=3)))
            continue
        value = value_of(field, texts, depth)
        if field.is_repeated:
            getattr(made, field.name).extend(draw(st.lists(value, max_size=3)))
        elif message_type is not None:
            getattr(made, field.name).CopyFrom(draw(value))
        else:
            setattr(made, field.name, draw(value))
    return made


def code_of(control: ControlPlane, method: str, data: bytes, key: str = "") -> grpc.StatusCode:
    call: Any = control.channel.unary_unary(method)
    try:
        call(data, metadata=(*TOKEN, *((("idempotency-key", key),) if key else ())), timeout=120)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_request_gets_an_answer_that_was_foreseen(
    plane: tuple[ControlPlane, list[str]], method: str, data: st.DataObject
) -> None:
    control, ids = plane
    service, _, name = method.lstrip("/").rpartition("/")
    kind = GetMessageClass(descriptor_pool.Default().FindServiceByName(service).methods_by_name[name].input_type)
    request = data.draw(message_of(kind, st.one_of(st.sampled_from(ids), TEXT)))
    key = data.draw(st.sampled_from(["", "", "one", "two"]))
    assert code_of(control, method, request.SerializeToString(), key) in EXPECTED


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=120))
def test_any_bytes_get_an_answer_that_was_foreseen(
    plane: tuple[ControlPlane, list[str]], method: str, data: bytes
) -> None:
    assert code_of(plane[0], method, data) in EXPECTED
