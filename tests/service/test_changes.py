"""Update, copies within a folder, families, access bindings, lists of operations: over gRPC on a real catalogue."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import field_mask_pb2
from google.protobuf.message import Message

from service._pb.yandex.cloud.access import access_pb2 as access
from service._pb.yandex.cloud.compute.v1 import hardware_generation_pb2 as pci
from service._pb.yandex.cloud.compute.v1 import image_pb2
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.operation import operation_pb2
from tests.service.control import TOKEN, ControlPlane
from tests.service.test_image_calls import cancel, delete, get_image, get_operation, image_id_of, refused

Code = grpc.StatusCode
MIB = 1 << 20
NEED = 12 * MIB  # of the content that the tests' worker finds


def update(control: ControlPlane, image_id: str, *paths: str, **fields: Any) -> image_pb2.Image:
    request = images.UpdateImageRequest(image_id=image_id, update_mask=field_mask_pb2.FieldMask(paths=paths), **fields)
    operation = control.images.Update(request, metadata=TOKEN)
    metadata, image = images.UpdateImageMetadata(), image_pb2.Image()
    assert operation.done
    assert operation.metadata.Unpack(metadata)
    assert metadata.image_id == image_id
    assert operation.response.Unpack(image)
    assert get_operation(control, operation.id) == operation
    assert image == get_image(control, image_id)
    return image


def test_update_changes_the_fields_of_its_mask_only(control: ControlPlane) -> None:
    image_id = control.ready(name="old", description="d", labels={"a": "1"}, family="fam")
    image = update(control, image_id, "name", name="new", description="ignored", labels={"b": "2"})
    assert (image.name, image.description, dict(image.labels), image.family) == ("new", "d", {"a": "1"}, "fam")


def test_update_replaces_labels_as_a_whole(control: ControlPlane) -> None:
    image_id = control.ready(labels={"a": "1", "b": "2"})
    assert dict(update(control, image_id, "labels", labels={"c": "3"}).labels) == {"c": "3"}
    assert dict(update(control, image_id, "labels").labels) == {}


def test_update_without_a_mask_resets_what_is_not_given(control: ControlPlane) -> None:
    image_id = control.ready(name="old", description="d", labels={"a": "1"}, min_disk_size=1 << 30)
    image = update(control, image_id, description="new")
    assert (image.name, image.description, dict(image.labels), image.min_disk_size) == ("", "new", {}, NEED)


def test_update_of_min_disk_size_states_the_minimum(control: ControlPlane) -> None:
    image_id = control.ready()
    call = lambda: update(control, image_id, "min_disk_size", min_disk_size=NEED - 1)  # noqa: E731
    code, message, fields = refused(call)
    assert (code, fields) == (Code.INVALID_ARGUMENT, ["min_disk_size"])
    assert str(NEED) in message
    assert update(control, image_id, "min_disk_size", min_disk_size=NEED).min_disk_size == NEED
    assert update(control, image_id, "min_disk_size", min_disk_size=1 << 30).min_disk_size == 1 << 30
    assert update(control, image_id, "min_disk_size").min_disk_size == NEED


@pytest.mark.parametrize("path", ["family", "id", "labels.a", "Name", "", "os"])
def test_update_of_another_field_is_refused(control: ControlPlane, path: str) -> None:
    image_id = control.ready(name="disk")
    code, _, fields = refused(lambda: update(control, image_id, "name", path, name="new"))
    assert (code, fields) == (Code.INVALID_ARGUMENT, ["update_mask"])
    assert get_image(control, image_id).name == "disk"


def test_update_to_a_taken_name_changes_nothing(control: ControlPlane) -> None:
    control.ready(name="taken")
    image_id = control.ready(name="mine")
    code, message, _ = refused(lambda: update(control, image_id, "name", "description", name="taken", description="x"))
    assert code is Code.ALREADY_EXISTS
    assert "'taken'" in message
    image = get_image(control, image_id)
    assert (image.name, image.description) == ("mine", "")
    assert update(control, image_id, "name", name="mine").name == "mine"


def test_update_while_creating_is_refused(control: ControlPlane) -> None:
    image_id = image_id_of(control.create())
    code, _, named = refused(lambda: update(control, image_id, "name", name="new"))
    assert (code, named) == (Code.FAILED_PRECONDITION, [f"image:{image_id}"])


def test_copy_in_a_folder_is_done_at_once_and_inherits(control: ControlPlane) -> None:
    hardware = pci.HardwareGeneration(legacy_features=pci.LegacyHardwareFeatures(pci_topology=pci.PCI_TOPOLOGY_V2))
    os = image_pb2.Os(type=image_pb2.Os.WINDOWS)
    source_id = control.ready(
        name="source", description="d", family="fam", os=os, product_ids=["p1"], hardware_generation=hardware
    )
    operation = control.images.Create(
        images.CreateImageRequest(
            folder_id="f1", image_id=source_id, os=image_pb2.Os(), product_ids=["p2", "p1"], name="copy"
        ),
        metadata=TOKEN,
    )
    image = image_pb2.Image()
    assert operation.done
    assert operation.response.Unpack(image)
    assert image == get_image(control, image_id_of(operation))
    assert (image.status, image.name, image.description, image.family) == (image_pb2.Image.READY, "copy", "", "")
    assert (image.os, list(image.product_ids), image.hardware_generation) == (os, ["p1", "p2"], hardware)
    assert (image.storage_size, image.min_disk_size, image.size) == (1_234_567, NEED, NEED)
    delete(control, source_id)
    assert control.contents.pins == {image.id}


def test_copy_may_say_otherwise_than_its_source(control: ControlPlane) -> None:
    source_id = control.ready(os=image_pb2.Os(type=image_pb2.Os.WINDOWS))
    hardware = pci.HardwareGeneration(generation2_features=pci.Generation2HardwareFeatures(vtpm_enabled=True))
    request = images.CreateImageRequest(
        folder_id="f1", image_id=source_id, os=image_pb2.Os(type=image_pb2.Os.LINUX), hardware_generation=hardware
    )
    image = get_image(control, image_id_of(control.images.Create(request, metadata=TOKEN)))
    assert (image.os.type, image.hardware_generation) == (image_pb2.Os.LINUX, hardware)


def test_copy_with_a_min_disk_size_too_small_makes_nothing(control: ControlPlane) -> None:
    source_id = control.ready()
    request = images.CreateImageRequest(folder_id="f1", image_id=source_id, name="copy", min_disk_size=4 * MIB)
    code, message, fields = refused(lambda: control.images.Create(request, metadata=TOKEN))
    assert (code, fields) == (Code.INVALID_ARGUMENT, ["min_disk_size"])
    assert str(NEED) in message
    control.create(name="copy")


def test_copy_of_an_image_that_is_not_ready_is_refused(control: ControlPlane) -> None:
    source_id = image_id_of(control.create())
    request = images.CreateImageRequest(folder_id="f1", image_id=source_id)
    code, _, named = refused(lambda: control.images.Create(request, metadata=TOKEN))
    assert (code, named) == (Code.FAILED_PRECONDITION, [f"image:{source_id}"])


def test_copy_into_another_folder_keeps_the_source_until_it_ends(control: ControlPlane) -> None:
    source_id = control.ready()
    operation = control.images.Create(images.CreateImageRequest(folder_id="f2", image_id=source_id), metadata=TOKEN)
    assert not operation.done
    assert len(control.contents.pins) == 2
    delete(control, source_id)
    held = control.claimed()
    assert held.held_pin in control.contents.pins
    control.succeed(held)
    assert control.contents.pins == {held.resource_id}


def test_cancelled_copy_lets_go_of_its_source(control: ControlPlane) -> None:
    source_id = control.ready()
    operation = control.images.Create(images.CreateImageRequest(folder_id="f2", image_id=source_id), metadata=TOKEN)
    assert cancel(control, operation.id).done
    assert control.contents.pins == {source_id}


def test_latest_of_a_family_is_the_newest_that_is_ready(control: ControlPlane) -> None:
    def latest(folder_id: str = "f1", family: str = "fam") -> str:
        request = images.GetImageLatestByFamilyRequest(folder_id=folder_id, family=family)
        return control.images.GetLatestByFamily(request, metadata=TOKEN).id

    control.ready(family="other")
    control.ready(family="fam", folder_id="f2")
    control.ready(family="fam")
    newest = control.ready(family="fam")
    control.create(family="fam")
    assert latest() == newest
    delete(control, newest)
    assert latest() != newest
    for wrong in ({"folder_id": "f3"}, {"family": "none"}, {"family": ""}):
        assert refused(lambda wrong=wrong: latest(**wrong))[0] is Code.NOT_FOUND


def operations_of(control: ControlPlane, image_id: str, **fields: Any) -> images.ListImageOperationsResponse:
    return control.images.ListOperations(images.ListImageOperationsRequest(image_id=image_id, **fields), metadata=TOKEN)


def test_operations_of_an_image_come_newest_first_and_outlive_it(control: ControlPlane) -> None:
    image_id = control.ready()
    for name in ("a", "b", "c"):
        update(control, image_id, "name", name=name)
    delete(control, image_id)
    everything = list(operations_of(control, image_id).operations)
    assert [one.description.split()[0] for one in everything] == ["Delete", "Update", "Update", "Update", "Create"]
    found: list[operation_pb2.Operation] = []
    token = ""
    while True:
        page = operations_of(control, image_id, page_size=2, page_token=token)
        assert len(page.operations) <= 2
        found += page.operations
        token = page.next_page_token
        assert len(token) <= 100
        if not token:
            break
    assert found == everything
    assert refused(lambda: operations_of(control, "fd8nothing"))[0] is Code.NOT_FOUND
    for wrong in ("x", "1.", "-1.a", f"{1 << 70}.a", "1.ü"):
        assert refused(lambda wrong=wrong: operations_of(control, image_id, page_token=wrong))[2] == ["page_token"]


def binding(subject: str, role: str = "viewer", type: str = "userAccount") -> access.AccessBinding:
    return access.AccessBinding(role_id=role, subject=access.Subject(id=subject, type=type))


def delta(action: int, one: access.AccessBinding) -> access.AccessBindingDelta:
    return access.AccessBindingDelta(action=access.AccessBindingAction.ValueType(action), access_binding=one)


ADD, REMOVE = access.AccessBindingAction.ADD, access.AccessBindingAction.REMOVE


def bindings_of(control: ControlPlane, image_id: str, page_size: int = 0) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        request = access.ListAccessBindingsRequest(resource_id=image_id, page_size=page_size, page_token=token)
        page = control.images.ListAccessBindings(request, metadata=TOKEN)
        found += [f"{one.subject.id} {one.role_id}" for one in page.access_bindings]
        token = page.next_page_token
        if not token:
            return found


def effects(operation: operation_pb2.Operation, metadata: Message) -> list[tuple[int, str]]:
    result = access.AccessBindingsOperationResult()
    assert operation.done
    assert operation.metadata.Unpack(metadata)
    assert operation.response.Unpack(result)
    return [(one.action, one.access_binding.subject.id) for one in result.effective_deltas]


def test_bindings_are_set_updated_and_listed(control: ControlPlane) -> None:
    image_id = control.ready()
    assert bindings_of(control, image_id) == []
    wanted = [binding("b"), binding("a"), binding("b")]
    operation = control.images.SetAccessBindings(
        access.SetAccessBindingsRequest(resource_id=image_id, access_bindings=wanted), metadata=TOKEN
    )
    assert effects(operation, access.SetAccessBindingsMetadata()) == [(ADD, "a"), (ADD, "b")]
    wanted_deltas = [(ADD, "a"), (REMOVE, "b"), (REMOVE, "x"), (ADD, "я")]
    deltas = [delta(action, binding(subject)) for action, subject in wanted_deltas]
    operation = control.images.UpdateAccessBindings(
        access.UpdateAccessBindingsRequest(resource_id=image_id, access_binding_deltas=deltas), metadata=TOKEN
    )
    assert effects(operation, access.UpdateAccessBindingsMetadata()) == [(REMOVE, "b"), (ADD, "я")]
    assert bindings_of(control, image_id, page_size=1) == ["a viewer", "я viewer"]
    operation = control.images.SetAccessBindings(access.SetAccessBindingsRequest(resource_id=image_id), metadata=TOKEN)
    assert effects(operation, access.SetAccessBindingsMetadata()) == [(REMOVE, "a"), (REMOVE, "я")]


def test_bindings_go_with_their_image_and_stay_within_a_thousand(control: ControlPlane) -> None:
    image_id = control.ready()
    full = [binding(f"s{index}") for index in range(1000)]
    control.images.SetAccessBindings(
        access.SetAccessBindingsRequest(resource_id=image_id, access_bindings=full), metadata=TOKEN
    )
    assert len(bindings_of(control, image_id, page_size=999)) == 1000
    more = access.UpdateAccessBindingsRequest(resource_id=image_id, access_binding_deltas=[delta(ADD, binding("x"))])
    assert refused(lambda: control.images.UpdateAccessBindings(more, metadata=TOKEN))[0] is Code.INVALID_ARGUMENT
    delete(control, image_id)
    assert refused(lambda: bindings_of(control, image_id))[0] is Code.NOT_FOUND
    with control.database.read() as tx:
        assert tx.exec_driver_sql("SELECT count(*) FROM access_bindings").scalar() == 0
