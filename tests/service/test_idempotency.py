"""The same call twice: idempotency keys, over gRPC on a real catalogue; and how long operations are kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2

from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.operation import operation_pb2, operation_service_pb2
from service.catalog.schema import operations
from service.model import now_us
from service.operations import pruning
from tests.service.control import TOKEN, ControlPlane
from tests.service.test_image_calls import cancel, get_image, get_operation, image_id_of, refused

Code = grpc.StatusCode
REQUEST = images.CreateImageRequest(folder_id="f1", name="disk", uri="https://h/a?secret", labels={"a": "1", "b": "2"})


def headers(key: str, token: str = "test") -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"), ("idempotency-key", key))


def create(control: ControlPlane, key: str, request: Any = REQUEST, token: str = "test") -> operation_pb2.Operation:
    return control.images.Create(request, metadata=headers(key, token))


def test_same_key_and_request_give_the_same_operation(control: ControlPlane) -> None:
    first = create(control, "k")
    assert create(control, "k") == first
    control.succeed(control.claimed())
    assert create(control, "k") == get_operation(control, first.id)
    assert create(control, "k").done


def test_key_of_a_failed_operation_returns_it(control: ControlPlane) -> None:
    first = create(control, "k")
    cancel(control, first.id)
    again = create(control, "k")
    assert (again.id, again.error.code) == (first.id, code_pb2.CANCELLED)


def test_same_key_for_another_request_starts_nothing(control: ControlPlane) -> None:
    create(control, "k")
    other = images.CreateImageRequest(folder_id="f1", name="other", uri="https://h/a?secret")
    code, message, fields = refused(lambda: create(control, "k", other))
    assert (code, fields) == (Code.INVALID_ARGUMENT, ["idempotency-key"])
    assert "secret" not in message
    listed = control.images.List(images.ListImagesRequest(folder_id="f1"), metadata=TOKEN).images
    assert [image.name for image in listed] == ["disk"]


def test_keys_are_those_of_a_caller_and_a_method(control: ControlPlane) -> None:
    first = create(control, "k")
    control.succeed(control.claimed())
    other = images.CreateImageRequest(folder_id="f2", uri="https://h/a")
    assert create(control, "k", other, token="another").id != first.id
    request = images.DeleteImageRequest(image_id=image_id_of(first))
    deleted = control.images.Delete(request, metadata=headers("k"))
    assert deleted.id != first.id
    assert control.images.Delete(request, metadata=headers("k")) == deleted
    assert refused(lambda: control.images.Delete(request, metadata=headers("k2")))[0] is Code.NOT_FOUND


def test_refused_request_leaves_its_key_free(control: ControlPlane) -> None:
    cancelled = control.create(name="disk")
    assert refused(lambda: create(control, "k"))[0] is Code.ALREADY_EXISTS
    cancel(control, cancelled.id)
    assert not create(control, "k").done


def test_reads_ignore_keys(control: ControlPlane) -> None:
    operation = create(control, "k")
    before = control.images.Get(images.GetImageRequest(image_id=image_id_of(operation)), metadata=headers("k"))
    control.succeed(control.claimed())
    after = control.images.Get(images.GetImageRequest(image_id=image_id_of(operation)), metadata=headers("k"))
    assert before.status != after.status


@pytest.mark.parametrize("key", ["x" * 129, "a\tb"])
def test_key_that_is_none_is_refused(control: ControlPlane, key: str) -> None:
    try:
        code, _, fields = refused(lambda: create(control, key))
    except ValueError:  # gRPC itself refuses to send it
        return
    assert (code, fields) in ((Code.INVALID_ARGUMENT, ["idempotency-key"]), (Code.INTERNAL, []))


def test_duplicates_at_once_make_one_operation(control: ControlPlane) -> None:
    request = images.CreateImageRequest(folder_id="f1", uri="https://h/a")
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: create(control, "k", request).id, range(64)))
    assert len(set(made)) == 1
    assert len(control.images.List(images.ListImagesRequest(folder_id="f1"), metadata=TOKEN).images) == 1


def test_many_creates_of_one_name_at_once_make_one_image(control: ControlPlane) -> None:
    def attempt(_: int) -> Code:
        try:
            control.create(name="disk")
        except grpc.RpcError as error:
            return error.code()
        return Code.OK

    with ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(attempt, range(64)))
    assert (codes.count(Code.OK), codes.count(Code.ALREADY_EXISTS)) == (1, 63)


def test_operations_are_kept_for_fourteen_days_and_their_keys_as_long(
    control: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "BATCH_SIZE", 2)
    request = images.CreateImageRequest(folder_id="f1", uri="https://h/a")
    old = [create(control, f"k{index}", request) for index in range(5)]
    for operation in old:
        cancel(control, operation.id)
    running, kept = control.create(), control.create(name="kept")
    cancel(control, kept.id)
    assert pruning.prune(control.database) == 0
    day_us = 24 * 3600 * 1_000_000
    with_ages = [(operation.id, 15) for operation in old] + [(running.id, 15), (kept.id, 13)]

    def age(tx: Any) -> None:
        for operation_id, days in with_ages:
            tx.execute(
                operations.update()
                .where(operations.c.id == operation_id)
                .values(modified_at_us=now_us() - days * day_us)
            )

    control.database.write(age)
    assert pruning.prune(control.database) == 5
    assert refused(get_operation, control, old[0].id)[0] is Code.NOT_FOUND
    assert get_operation(control, running.id).id == running.id
    assert get_operation(control, kept.id).done
    assert not create(control, "k0").done
    assert get_image(control, image_id_of(running)).id


def test_poll_interval_is_told(control: ControlPlane) -> None:
    request = operation_service_pb2.GetOperationRequest(operation_id=control.create().id)
    _, call = control.operations.Get.with_call(request, metadata=TOKEN)
    assert dict(call.initial_metadata())["x-operation-poll-interval"] == "1"
