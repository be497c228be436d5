"""ImageService and OperationService over gRPC, against a real catalogue; the worker's part is played by the test."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from google.rpc import code_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service._pb.dataplane.v1 import image_details_pb2 as details
from service._pb.yandex.cloud.compute.v1 import hardware_generation_pb2 as pci
from service._pb.yandex.cloud.compute.v1 import image_pb2
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.endpoint import api_endpoint_service_pb2 as endpoints
from service._pb.yandex.cloud.iam.v1 import iam_token_service_pb2 as iam
from service._pb.yandex.cloud.operation import operation_pb2
from service._pb.yandex.cloud.operation import operation_service_pb2 as operations
from tests.service.control import ANNOUNCED, TOKEN, ControlPlane, refusal

Code = grpc.StatusCode


def image_id_of(operation: operation_pb2.Operation) -> str:
    metadata = images.CreateImageMetadata()
    assert operation.metadata.type_url == "type.googleapis.com/yandex.cloud.compute.v1.CreateImageMetadata"
    assert operation.metadata.Unpack(metadata)
    return metadata.image_id


def get_image(control: ControlPlane, image_id: str) -> image_pb2.Image:
    return control.images.Get(images.GetImageRequest(image_id=image_id), metadata=TOKEN)


def get_operation(control: ControlPlane, operation_id: str) -> operation_pb2.Operation:
    return control.operations.Get(operations.GetOperationRequest(operation_id=operation_id), metadata=TOKEN)


def cancel(control: ControlPlane, operation_id: str) -> operation_pb2.Operation:
    return control.operations.Cancel(operations.CancelOperationRequest(operation_id=operation_id), metadata=TOKEN)


def delete(control: ControlPlane, image_id: str) -> operation_pb2.Operation:
    return control.images.Delete(images.DeleteImageRequest(image_id=image_id), metadata=TOKEN)


def list_ids(control: ControlPlane, **fields: Any) -> tuple[list[str], str]:
    page = control.images.List(images.ListImagesRequest(**{"folder_id": "f1"} | fields), metadata=TOKEN)
    return [image.id for image in page.images], page.next_page_token


def refused(call: Any, *arguments: Any) -> tuple[grpc.StatusCode, str, list[str]]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    return refusal(caught.value)


def test_create_answers_at_once_with_a_creating_image(control: ControlPlane) -> None:
    operation = control.create(name="disk", description="d", labels={"k": "v"}, family="fam", product_ids=["p"])
    image = get_image(control, image_id_of(operation))
    assert (operation.done, operation.WhichOneof("result")) == (False, None)
    assert len(operation.id) == len(image.id) == 20
    assert image.id.startswith("fd8")
    assert image.status == image_pb2.Image.CREATING
    assert (image.name, image.description, dict(image.labels)) == ("disk", "d", {"k": "v"})
    assert (image.family, list(image.product_ids)) == ("fam", ["p"])
    assert (image.size, image.storage_size) == (0, 0)
    assert operation.created_by.startswith("dev")
    assert operation.created_at == operation.modified_at


def test_create_done_returns_the_ready_image_in_every_view(control: ControlPlane) -> None:
    started = control.create(name="disk")
    control.succeed(control.claimed())
    operation = get_operation(control, started.id)
    response = image_pb2.Image()
    assert operation.done
    assert operation.WhichOneof("result") == "response"
    assert operation.response.type_url == "type.googleapis.com/yandex.cloud.compute.v1.Image"
    assert operation.response.Unpack(response)
    assert response == get_image(control, image_id_of(operation))
    assert (response.status, response.storage_size) == (image_pb2.Image.READY, 1_234_567)
    assert response.size == response.min_disk_size == 12582912  # 10,000,000 rounded up to 4 MiB
    sizes = control.details.GetSizes(details.GetSizesRequest(image_id=response.id), metadata=TOKEN)
    assert (sizes.virtual_size, sizes.storage_size, sizes.root) == (10_000_000, 1_234_567, b"r" * 32)


def test_os_defaults_to_linux_and_hardware_is_kept(control: ControlPlane) -> None:
    hardware = pci.HardwareGeneration(legacy_features=pci.LegacyHardwareFeatures(pci_topology=pci.PCI_TOPOLOGY_V1))
    plain = get_image(control, image_id_of(control.create(os=image_pb2.Os())))
    full = control.create(
        pooled=True,
        hardware_generation=hardware,
        os=image_pb2.Os(type=image_pb2.Os.WINDOWS, nvidia=image_pb2.Nvidia(driver="535")),
    )
    image = get_image(control, image_id_of(full))
    assert plain.os == image_pb2.Os(type=image_pb2.Os.LINUX)
    assert not plain.HasField("hardware_generation")
    assert (image.os.type, image.os.nvidia.driver, image.pooled) == (image_pb2.Os.WINDOWS, "535", True)
    assert image.hardware_generation == hardware


def test_hardware_generation_without_features_stays_present(control: ControlPlane) -> None:
    image = get_image(control, image_id_of(control.create(hardware_generation=pci.HardwareGeneration())))
    assert image.HasField("hardware_generation")


def test_name_is_unique_in_its_folder_only(control: ControlPlane) -> None:
    control.create(name="disk")
    code, message, _ = refused(lambda: control.create(name="disk"))
    assert code is Code.ALREADY_EXISTS
    assert "'disk'" in message
    control.create(name="disk", folder_id="f2")
    control.create(name="")
    control.create(name="")


def test_name_is_free_after_cancel_and_delete(control: ControlPlane) -> None:
    cancel(control, control.create(name="disk").id)
    image_id = control.ready(name="disk")
    delete(control, image_id)
    control.create(name="disk")


@pytest.mark.parametrize(
    ("source", "code", "named"),
    [
        ({"disk_id": "d1"}, Code.NOT_FOUND, "'d1'"),
        ({"snapshot_id": "s1"}, Code.NOT_FOUND, "'s1'"),
        ({"image_id": "i1"}, Code.NOT_FOUND, "'i1'"),
    ],
)
def test_create_from_other_sources_is_refused(
    control: ControlPlane, source: dict[str, str], code: Code, named: str
) -> None:
    request = images.CreateImageRequest(folder_id="f1", name="disk", **source)  # type: ignore[arg-type]
    found, message, _ = refused(lambda: control.images.Create(request, metadata=TOKEN))
    assert found is code
    assert named in message
    control.create(name="disk")


def test_wrong_fields_come_all_at_once(control: ControlPlane) -> None:
    code, message, fields = refused(lambda: control.create(folder_id="", name="A", uri=""))
    assert code is Code.INVALID_ARGUMENT
    assert fields == ["folder_id", "name", "uri"]
    assert message.startswith("folder_id: is required")


def test_thousands_of_wrong_labels_fit_into_the_answer(control: ControlPlane) -> None:
    code, _, fields = refused(lambda: control.create(labels={f"K{i}" * 10: "é" * 99 for i in range(5000)}))
    assert code is Code.INVALID_ARGUMENT
    assert fields[-1] == "…"


def test_get_unknown_image_is_not_found(control: ControlPlane) -> None:
    code, message, _ = refused(get_image, control, "fd8nothing")
    assert (code, message) == (Code.NOT_FOUND, "image 'fd8nothing' is not there")


def test_operation_unknown_is_not_found(control: ControlPlane) -> None:
    for call in (get_operation, cancel):
        assert refused(call, control, "x\n" * 200)[0] is Code.NOT_FOUND


def test_list_pages_are_stable_under_inserts_and_deletes(control: ControlPlane) -> None:
    ids = sorted(control.ready() for _ in range(7))
    first, token = list_ids(control, page_size=3)
    assert first == ids[:3]
    assert 0 < len(token) <= 100
    delete(control, first[-1])
    added = image_id_of(control.create())
    rest, _ = list_ids(control, page_size=1000, page_token=token)
    assert rest == sorted([*ids[3:], *([added] if added > first[-1] else [])])


def test_list_last_page_has_no_token(control: ControlPlane) -> None:
    for _ in range(4):
        control.create()
    first, token = list_ids(control, page_size=2)
    second, end = list_ids(control, page_size=2, page_token=token)
    assert (len(first), len(second), end) == (2, 2, "")


def test_list_shows_its_folder_only(control: ControlPlane) -> None:
    mine = image_id_of(control.create())
    control.create(folder_id="f2")
    assert list_ids(control)[0] == [mine]
    assert list_ids(control, folder_id="f3") == ([], "")


@pytest.mark.parametrize("text", ['name="b"', "name = 'b'", '  name="b" '])
def test_list_filters_by_name(control: ControlPlane, text: str) -> None:
    control.create(name="a")
    wanted = image_id_of(control.create(name="b"))
    assert list_ids(control, filter=text) == ([wanted], "")


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"filter": 'size="1"'}, "filter"),
        ({"filter": 'name="a" OR name="b"'}, "filter"),
        ({"filter": "name=a"}, "filter"),
        ({"order_by": "description"}, "order_by"),
        ({"order_by": "id sideways"}, "order_by"),
        ({"order_by": "id asc name"}, "order_by"),
        ({"page_token": "%%%"}, "page_token"),
        ({"page_token": "YWJj"}, "page_token"),
        ({"page_token": "é"}, "page_token"),
    ],
)
def test_list_refuses_what_it_does_not_understand(control: ControlPlane, fields: dict[str, str], wrong: str) -> None:
    code, _, found = refused(lambda: list_ids(control, **fields))
    assert (code, found) == (Code.INVALID_ARGUMENT, [wrong])


def test_list_refuses_a_token_of_another_list(control: ControlPlane) -> None:
    for _ in range(2):
        control.create()
    _, token = list_ids(control, page_size=1)
    assert refused(lambda: list_ids(control, page_token=token, folder_id="f2"))[2] == ["page_token"]


def test_delete_unpins_and_is_done_at_once(control: ControlPlane) -> None:
    image_id = control.ready()
    operation = delete(control, image_id)
    metadata, empty = images.DeleteImageMetadata(), empty_pb2.Empty()
    assert operation.done
    assert operation.metadata.Unpack(metadata)
    assert metadata.image_id == image_id
    assert operation.response.Unpack(empty)
    assert control.contents.pins == set()
    assert get_operation(control, operation.id) == operation
    assert refused(get_image, control, image_id)[0] is Code.NOT_FOUND
    assert refused(delete, control, image_id)[0] is Code.NOT_FOUND


def test_delete_while_creating_names_the_operation(control: ControlPlane) -> None:
    operation = control.create()
    code, message, _ = refused(delete, control, image_id_of(operation))
    assert code is Code.FAILED_PRECONDITION
    assert operation.id in message


def test_create_operation_outlives_its_image(control: ControlPlane) -> None:
    operation = control.create()
    control.succeed(control.claimed())
    delete(control, image_id_of(operation))
    assert get_operation(control, operation.id).response.Unpack(image_pb2.Image())


def test_cancel_of_a_waiting_operation_ends_it_at_once(control: ControlPlane) -> None:
    started = control.create(name="disk")
    operation = cancel(control, started.id)
    assert (operation.done, operation.error.code) == (True, code_pb2.CANCELLED)
    assert image_id_of(operation) == image_id_of(started)
    assert refused(get_image, control, image_id_of(started))[0] is Code.NOT_FOUND
    assert cancel(control, started.id) == operation
    assert control.claim() is None


def test_cancel_of_a_finished_operation_returns_it(control: ControlPlane) -> None:
    started = control.create()
    control.succeed(control.claimed())
    finished = get_operation(control, started.id)
    assert cancel(control, started.id) == finished
    assert finished.WhichOneof("result") == "response"


def test_cancel_of_a_running_operation_waits_for_its_worker(control: ControlPlane) -> None:
    started = control.create()
    control.claimed()
    operation = cancel(control, started.id)
    assert not operation.done
    assert get_image(control, image_id_of(started)).status == image_pb2.Image.CREATING


def test_sizes_of_a_creating_image_are_not_known(control: ControlPlane) -> None:
    request = details.GetSizesRequest(image_id=image_id_of(control.create()))
    code, _, _ = refused(lambda: control.details.GetSizes(request, metadata=TOKEN))
    assert code is Code.FAILED_PRECONDITION


def test_progress_of_a_waiting_operation_is_queued(control: ControlPlane) -> None:
    request = details.GetProgressRequest(operation_id=control.create().id)
    progress = control.details.GetProgress(request, metadata=TOKEN)
    assert (progress.stage, progress.done) == (details.Progress.QUEUED, False)


def test_watch_ends_with_the_operation(control: ControlPlane) -> None:
    started = control.create()
    stages = []
    for progress in control.details.WatchProgress(
        details.WatchProgressRequest(operation_id=started.id), metadata=TOKEN, timeout=120
    ):
        stages.append(progress.stage)
        if len(stages) == 1:
            control.succeed(control.claimed())
    # Between the two a slow machine may show it without a place in the queue, claimed and not begun.
    assert list(dict.fromkeys(stages)) == [details.Progress.QUEUED, details.Progress.DONE]


def test_watch_of_an_unknown_operation_is_not_found(control: ControlPlane) -> None:
    request = details.WatchProgressRequest(operation_id="nothing")
    assert refused(lambda: list(control.details.WatchProgress(request, metadata=TOKEN)))[0] is Code.NOT_FOUND


@pytest.mark.parametrize("header", [(), (("authorization", "Basic x"),), (("authorization", "Bearer "),)])
def test_call_without_a_bearer_token_is_unauthenticated(
    control: ControlPlane, header: tuple[tuple[str, str], ...]
) -> None:
    request = images.ListImagesRequest(folder_id="f")
    assert refused(lambda: control.images.List(request, metadata=header))[0] is Code.UNAUTHENTICATED


def test_endpoints_need_no_token_and_carry_the_port(control: ControlPlane) -> None:
    found = {one.id: one.address for one in control.endpoints.List(endpoints.ListApiEndpointsRequest()).endpoints}
    assert {"iam", "compute", "operation", "endpoint"} <= found.keys()
    assert set(found.values()) == {ANNOUNCED}
    one = control.endpoints.Get(endpoints.GetApiEndpointRequest(api_endpoint_id="compute"))
    assert (one.id, one.address) == ("compute", ANNOUNCED)
    code, _, _ = refused(lambda: control.endpoints.Get(endpoints.GetApiEndpointRequest(api_endpoint_id="storage")))
    assert code is Code.NOT_FOUND


def test_token_is_issued_for_any_credential(control: ControlPlane) -> None:
    answer = control.tokens.Create(iam.CreateIamTokenRequest(jwt="a.b.c"))
    assert answer.iam_token
    assert answer.expires_at.seconds > 0
    assert refused(lambda: control.tokens.Create(iam.CreateIamTokenRequest()))[0] is Code.INVALID_ARGUMENT


def test_answers_carry_a_request_id(control: ControlPlane) -> None:
    answer, call = control.images.List.with_call(images.ListImagesRequest(folder_id="f"), metadata=TOKEN)
    assert answer.images == []
    assert len(dict(call.initial_metadata())["x-request-id"]) == 36


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_create_of_random_bytes_is_never_internal(control: ControlPlane, data: bytes) -> None:
    call: Any = control.channel.unary_unary("/yandex.cloud.compute.v1.ImageService/Create")
    code, _, _ = refused(lambda: call(data, metadata=TOKEN))
    assert code in (Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.ALREADY_EXISTS)


TEXT = st.text(max_size=70)
REQUESTS = st.builds(
    images.CreateImageRequest,
    folder_id=st.one_of(st.just("f1"), TEXT),
    name=st.one_of(st.just(""), st.from_regex(r"[a-z]{1,3}", fullmatch=True), TEXT),
    description=TEXT,
    labels=st.dictionaries(TEXT, TEXT, max_size=3),
    family=st.one_of(st.just(""), TEXT),
    min_disk_size=st.one_of(st.just(0), st.integers(-(2**63), 2**63 - 1)),
    product_ids=st.lists(TEXT, max_size=3),
    uri=st.one_of(st.just("https://h/a?secret"), TEXT),
    os=st.builds(image_pb2.Os, type=st.integers(-5, 5)),
    pooled=st.booleans(),
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=REQUESTS)
def test_create_of_any_request_is_never_internal(control: ControlPlane, request: images.CreateImageRequest) -> None:
    code = Code.OK
    try:
        operation = control.images.Create(request, metadata=TOKEN)
        assert get_image(control, image_id_of(operation)).folder_id == request.folder_id
    except grpc.RpcError as error:
        code = refusal(error)[0]
    assert code in (Code.OK, Code.INVALID_ARGUMENT, Code.ALREADY_EXISTS)
