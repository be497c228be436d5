"""Folders beside each other: turns, places in the queue, quotas, and what strangers see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2

from service import status
from service._pb.dataplane.v1 import image_details_pb2 as details
from service._pb.yandex.cloud.access import access_pb2 as access
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.operation import operation_service_pb2 as operations
from service.faults import QuotaExceeded
from service.model import Operation
from service.operations import ending
from tests.service.control import TOKEN, ControlPlane, as_
from tests.service.test_changes import ADD, binding, delta
from tests.service.test_image_calls import delete, image_id_of, refused

Code = grpc.StatusCode


def position(control: ControlPlane, operation_id: str) -> int:
    request = details.GetProgressRequest(operation_id=operation_id)
    return control.details.GetProgress(request, metadata=TOKEN).queue_position


def test_one_folder_does_not_starve_another(control: ControlPlane) -> None:
    for _ in range(500):
        control.create(folder_id="crowd")
    alone = control.create(folder_id="alone")
    first, second = control.claimed(), control.claimed()
    assert {first.folder_id, second.folder_id} == {"crowd", "alone"}
    assert alone.id in (first.id, second.id)


def test_one_worker_serves_folders_in_turn(control: ControlPlane) -> None:
    for folder in ("a", "a", "a", "a", "b", "b", "c"):
        control.create(folder_id=folder)
    served = []
    while (operation := control.claim()) is not None:
        served.append(operation.folder_id)
        control.succeed(operation)
    assert served == ["a", "b", "c", "a", "b", "a", "a"]


def test_folder_with_fewer_running_comes_first(control: ControlPlane) -> None:
    for folder in ("a", "b", "b", "b"):
        control.create(folder_id=folder)
    running_a, running_b = control.claimed(), control.claimed()
    assert (running_a.folder_id, running_b.folder_id) == ("a", "b")
    control.succeed(running_b)
    control.create(folder_id="a")
    assert control.claimed().folder_id == "b"


def test_place_in_the_queue_is_that_of_the_turns(control: ControlPlane) -> None:
    made = [control.create(folder_id=folder).id for folder in ("a", "a", "a", "b", "b", "c")]
    told = {operation_id: position(control, operation_id) for operation_id in made}
    served = [control.claimed().id for _ in made]
    assert sorted(told.values()) == [1, 2, 3, 4, 5, 6]
    assert [told[operation_id] for operation_id in served] == [1, 2, 3, 4, 5, 6]
    assert [position(control, operation_id) for operation_id in made] == [0] * 6


def test_quota_of_images_counts_every_state(limited: Callable[..., ControlPlane]) -> None:
    control = limited(images=2)
    control.ready()
    kept = control.ready()
    code, message, named = refused(lambda: control.create())
    assert (code, named) == (Code.RESOURCE_EXHAUSTED, ["folder:f1/images"])
    assert "quota images" in message
    copy = images.CreateImageRequest(folder_id="f1", image_id=kept)
    assert refused(lambda: control.images.Create(copy, metadata=TOKEN))[2] == ["folder:f1/images"]
    control.create(folder_id="f2")
    delete(control, kept)
    control.create()


def test_quota_of_operations_counts_unfinished_ones(limited: Callable[..., ControlPlane]) -> None:
    control = limited(operations=2)
    control.create()
    control.create()
    assert refused(lambda: control.create())[2] == ["folder:f1/operations"]
    control.succeed(control.claimed())
    control.create()


def test_quota_of_bytes_holds_at_the_beginning_and_at_the_end(limited: Callable[..., ControlPlane]) -> None:
    control = limited(bytes=2 * 1_234_567)
    control.ready()
    first, second = control.create(), control.create()
    control.succeed(control.claimed())
    late: Operation = control.claimed()
    with pytest.raises(QuotaExceeded) as caught:
        control.succeed(late)
    failure = status.status_of(caught.value, trace_id="")
    quota = error_details_pb2.QuotaFailure()
    assert failure.code == code_pb2.RESOURCE_EXHAUSTED
    assert failure.details[0].Unpack(quota)
    assert quota.violations[0].subject == "folder:f1/bytes"
    control.database.write(lambda tx: ending.undo(tx, late, epoch=late.epoch, error=failure, contents=control.contents))
    assert refused(lambda: control.create())[2] == ["folder:f1/bytes"]
    assert {first.id, second.id}


def ready_in(control: ControlPlane, folder_id: str, **fields: Any) -> str:
    request = images.CreateImageRequest(folder_id=folder_id, uri="https://h/a", **fields)
    image_id = image_id_of(control.images.Create(request, metadata=as_(folder_id)))
    control.succeed(control.claimed())
    return image_id


def test_foreign_folder_is_not_there_and_a_visible_one_may_forbid(policed: ControlPlane) -> None:
    image_id = ready_in(policed, "theirs", family="fam")
    creating = policed.images.Create(
        images.CreateImageRequest(folder_id="theirs", uri="https://h/a"), metadata=as_("theirs")
    )
    calls: list[tuple[Any, Any]] = [
        (policed.images.Get, images.GetImageRequest(image_id=image_id)),
        (policed.images.Update, images.UpdateImageRequest(image_id=image_id)),
        (policed.images.Delete, images.DeleteImageRequest(image_id=image_id)),
        (policed.images.ListOperations, images.ListImageOperationsRequest(image_id=image_id)),
        (policed.images.ListAccessBindings, access.ListAccessBindingsRequest(resource_id=image_id)),
        (policed.images.SetAccessBindings, access.SetAccessBindingsRequest(resource_id=image_id)),
        (policed.images.Create, images.CreateImageRequest(folder_id="theirs", uri="https://h/a")),
        (policed.images.Create, images.CreateImageRequest(folder_id="theirs", disk_id="d")),
        (policed.images.GetLatestByFamily, images.GetImageLatestByFamilyRequest(folder_id="theirs", family="fam")),
        (policed.operations.Get, operations.GetOperationRequest(operation_id=creating.id)),
        (policed.operations.Cancel, operations.CancelOperationRequest(operation_id=creating.id)),
        (policed.details.GetSizes, details.GetSizesRequest(image_id=image_id)),
        (policed.details.GetProgress, details.GetProgressRequest(operation_id=creating.id)),
        (policed.details.ReplaceSource, details.ReplaceSourceRequest(operation_id=creating.id, uri="https://h/b")),
    ]
    for call, request in calls:
        assert refused(lambda c=call, r=request: c(r, metadata=as_("mine")))[0] is Code.NOT_FOUND, request
        found = refused(lambda c=call, r=request: c(r, metadata=as_("mine/theirs")))[0]
        assert found is Code.PERMISSION_DENIED, request
    listed = images.ListImagesRequest(folder_id="theirs")
    assert refused(lambda: policed.images.List(listed, metadata=as_("mine")))[0] is Code.NOT_FOUND
    assert len(policed.images.List(listed, metadata=as_("mine/theirs")).images) == 2
    own = images.CreateImageRequest(folder_id="mine", image_id=image_id)
    code, message, _ = refused(lambda: policed.images.Create(own, metadata=as_("mine")))
    assert (code, message) == (Code.NOT_FOUND, f"image '{image_id}' is not there")


@pytest.mark.parametrize(
    ("who", "type", "role", "shared"),
    [
        ("mine", "userAccount", "compute.images.user", True),
        ("allAuthenticatedUsers", "system", "compute.images.user", True),
        ("allAuthenticatedUsers", "userAccount", "compute.images.user", False),
        ("somebody", "userAccount", "viewer", False),
        ("mine", "userAccount", "storage.viewer", False),
    ],
)
def test_binding_shares_an_image_for_reading_and_copying(
    policed: ControlPlane, who: str, type: str, role: str, shared: bool
) -> None:
    image_id = ready_in(policed, "theirs")
    request = access.UpdateAccessBindingsRequest(
        resource_id=image_id, access_binding_deltas=[delta(ADD, binding(who, role, type))]
    )
    policed.images.UpdateAccessBindings(request, metadata=as_("theirs"))
    get = images.GetImageRequest(image_id=image_id)
    copy = images.CreateImageRequest(folder_id="mine", image_id=image_id)
    if not shared:
        assert refused(lambda: policed.images.Get(get, metadata=as_("mine")))[0] is Code.NOT_FOUND
        return
    assert policed.images.Get(get, metadata=as_("mine")).folder_id == "theirs"
    assert not policed.images.Create(copy, metadata=as_("mine")).done
    gone = images.DeleteImageRequest(image_id=image_id)
    assert refused(lambda: policed.images.Delete(gone, metadata=as_("mine")))[0] is Code.NOT_FOUND
