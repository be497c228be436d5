"""Every call of DiskService, over gRPC on a real catalogue with real folders of disks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, field_mask_pb2
from sqlalchemy.exc import OperationalError

from dataplane import create_overlay, disk_status, lock_disk
from service._pb.yandex.cloud.access import access_pb2 as access
from service._pb.yandex.cloud.compute.v1 import disk_pb2
from service._pb.yandex.cloud.compute.v1 import disk_service_pb2 as disks
from service._pb.yandex.cloud.compute.v1 import hardware_generation_pb2 as pci
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.compute.v1 import snapshot_service_pb2 as snapshots
from service._pb.yandex.cloud.operation import operation_pb2
from service._pb.yandex.cloud.operation import operation_service_pb2 as operations
from service.sweeping import sweep
from tests.service.control import CONTENT, TOKEN, ControlPlane
from tests.service.test_image_calls import refused

Code = grpc.StatusCode
MIB = 1 << 20
NEED = 12 * MIB  # of the content that the tests' worker finds


def create(control: ControlPlane, *, metadata: Any = TOKEN, **fields: Any) -> operation_pb2.Operation:
    given: dict[str, Any] = {"folder_id": "f1", "zone_id": "z", "size": 64 * MIB} | fields
    return control.disks.Create(disks.CreateDiskRequest(**given), metadata=metadata)


def disk_of(operation: operation_pb2.Operation) -> disk_pb2.Disk:
    disk = disk_pb2.Disk()
    assert operation.response.Unpack(disk), operation.error
    return disk


def created(control: ControlPlane, **fields: Any) -> disk_pb2.Disk:
    operation, metadata = create(control, **fields), disks.CreateDiskMetadata()
    disk = disk_of(operation)
    assert operation.metadata.Unpack(metadata)
    assert metadata.disk_id == disk.id
    return disk


def get(control: ControlPlane, disk_id: str) -> disk_pb2.Disk:
    return control.disks.Get(disks.GetDiskRequest(disk_id=disk_id), metadata=TOKEN)


def update(control: ControlPlane, disk_id: str, *paths: str, **fields: Any) -> disk_pb2.Disk:
    mask = field_mask_pb2.FieldMask(paths=paths)
    operation = control.disks.Update(
        disks.UpdateDiskRequest(disk_id=disk_id, update_mask=mask, **fields), metadata=TOKEN
    )
    assert operation.metadata.Is(disks.UpdateDiskMetadata.DESCRIPTOR)
    assert disk_of(operation) == get(control, disk_id)
    return disk_of(operation)


def delete(control: ControlPlane, disk_id: str) -> operation_pb2.Operation:
    return control.disks.Delete(disks.DeleteDiskRequest(disk_id=disk_id), metadata=TOKEN)


def snapshot(control: ControlPlane, disk_id: str, **fields: Any) -> operation_pb2.Operation:
    request = snapshots.CreateSnapshotRequest(**{"folder_id": "f1", "disk_id": disk_id} | fields)
    return control.snapshots.Create(request, metadata=TOKEN)


def names(control: ControlPlane, **fields: Any) -> list[str]:
    return [
        disk.name for disk in control.disks.List(disks.ListDisksRequest(folder_id="f1", **fields), metadata=TOKEN).disks
    ]


def folders(control: ControlPlane) -> list[str]:
    return control.folders.names()


def test_empty_disk_is_ready_at_once_and_every_field_comes_back(control: ControlPlane) -> None:
    policy = disk_pb2.DiskPlacementPolicy(placement_group_id="g", placement_group_partition=2)
    hardware = pci.HardwareGeneration(generation2_features=pci.Generation2HardwareFeatures(vtpm_enabled=True))
    disk = created(
        control, name="d", description="text", labels={"a": "b"}, type_id="network-ssd", zone_id="zone-a", size=1 << 40,
        block_size=8192, disk_placement_policy=policy, hardware_generation=hardware,
    )  # fmt: skip
    assert disk == get(control, disk.id)
    assert disk.created_at.seconds > 0
    disk.ClearField("created_at")
    assert disk == disk_pb2.Disk(
        id=disk.id, folder_id="f1", name="d", description="text", labels={"a": "b"}, type_id="network-ssd",
        zone_id="zone-a", size=1 << 40, block_size=8192, status=disk_pb2.Disk.READY, disk_placement_policy=policy,
        hardware_generation=hardware,
    )  # fmt: skip
    assert len(disk.id) == 20
    found = disk_status(control.folders.path(disk.id))
    assert (found.size, found.base_root, found.domain, found.owner) == (1 << 40, None, "f1", disk.id)
    assert control.contents.pins == set()


def test_type_and_block_size_have_defaults(control: ControlPlane) -> None:
    disk = created(control)
    assert (disk.type_id, disk.block_size, disk.WhichOneof("source")) == ("network-hdd", 4096, None)


def test_disk_of_an_image_pins_its_root_and_inherits(control: ControlPlane) -> None:
    hardware = pci.HardwareGeneration(legacy_features=pci.LegacyHardwareFeatures(pci_topology=pci.PCI_TOPOLOGY_V2))
    image_id = control.ready(product_ids=["p1", "p2"], hardware_generation=hardware)
    disk = created(control, image_id=image_id, size=NEED)
    assert (disk.source_image_id, disk.source_snapshot_id) == (image_id, "")
    assert (list(disk.product_ids), disk.hardware_generation) == (["p1", "p2"], hardware)
    assert control.contents.pins == {image_id, disk.id}
    assert disk_status(control.folders.path(disk.id)).base_root == CONTENT.root


def test_disk_that_is_too_small_for_its_image_is_refused_with_the_minimum(control: ControlPlane) -> None:
    image_id = control.ready(min_disk_size=20 * MIB)
    code, message, fields = refused(lambda: create(control, image_id=image_id, size=16 * MIB))
    assert (code, fields) == (Code.INVALID_ARGUMENT, ["size"])
    assert str(20 * MIB) in message
    assert folders(control) == names(control) == []


def test_disk_of_an_image_in_another_folder_is_copied_by_a_worker(control: ControlPlane) -> None:
    image_id = control.ready()
    operation = create(control, folder_id="f2", image_id=image_id, size=NEED, name="far")
    assert not operation.done
    metadata = disks.CreateDiskMetadata()
    assert operation.metadata.Unpack(metadata)
    assert get(control, metadata.disk_id).status == disk_pb2.Disk.CREATING
    assert refused(lambda: delete(control, metadata.disk_id))[0] is Code.FAILED_PRECONDITION
    assert refused(lambda: snapshot(control, metadata.disk_id))[0] is Code.FAILED_PRECONDITION
    claimed = control.claimed()
    assert claimed.held_pin in control.contents.pins
    control.succeed(claimed)
    assert get(control, metadata.disk_id).status == disk_pb2.Disk.READY
    assert control.contents.pins == {image_id, metadata.disk_id}


def test_cancelled_copy_leaves_no_disk(control: ControlPlane) -> None:
    image_id = control.ready()
    operation = create(control, folder_id="f2", image_id=image_id, size=NEED)
    cancelled = control.operations.Cancel(operations.CancelOperationRequest(operation_id=operation.id), metadata=TOKEN)
    assert (cancelled.done, cancelled.error.code) == (True, Code.CANCELLED.value[0])
    assert control.contents.pins == {image_id}
    assert control.disks.List(disks.ListDisksRequest(folder_id="f2"), metadata=TOKEN).disks == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"image_id": "nothing"}, "image 'nothing'"),
        ({"snapshot_id": "nothing"}, "snapshot 'nothing'"),
        ({"kms_key_id": "abj"}, "key 'abj'"),
        ({"snapshot_schedule_ids": ["s1"]}, "snapshot schedule 's1'"),
    ],
)
def test_what_is_not_there_is_named(control: ControlPlane, fields: dict[str, Any], text: str) -> None:
    code, message, _ = refused(lambda: create(control, **fields))
    assert code is Code.NOT_FOUND
    assert text in message
    assert folders(control) == []


def test_image_that_is_being_created_is_no_source(control: ControlPlane) -> None:
    control.create()
    image_id = control.claimed().resource_id
    code, _, subjects = refused(lambda: create(control, image_id=image_id))
    assert (code, subjects) == (Code.FAILED_PRECONDITION, [f"image:{image_id}"])


def test_taken_name_leaves_no_folder(control: ControlPlane) -> None:
    disk = created(control, name="d")
    code, message, _ = refused(lambda: create(control, name="d"))
    assert code is Code.ALREADY_EXISTS
    assert "disk name 'd' is taken" in message
    assert folders(control) == [disk.id]
    control.ready(name="d")  # names of images are others


def test_repeated_call_makes_one_disk(control: ControlPlane) -> None:
    metadata = (*TOKEN, ("idempotency-key", "k"))
    image_id = control.ready()
    first = create(control, metadata=metadata, image_id=image_id, size=NEED)
    control.images.Delete(images.DeleteImageRequest(image_id=image_id), metadata=TOKEN)
    assert create(control, metadata=metadata, image_id=image_id, size=NEED) == first
    assert folders(control) == [disk_of(first).id]
    code, _, fields = refused(lambda: create(control, metadata=metadata, size=NEED))
    assert (code, fields) == (Code.INVALID_ARGUMENT, ["idempotency-key"])


def test_update_changes_the_fields_of_its_mask_only(control: ControlPlane) -> None:
    policy = disk_pb2.DiskPlacementPolicy(placement_group_id="g")
    disk = created(control, name="d", labels={"a": "1"}, disk_placement_policy=policy)
    changed = update(control, disk.id, "name", name="new", size=1 << 40)
    assert (changed.name, changed.size, changed.disk_placement_policy) == ("new", disk.size, policy)
    changed = update(control, disk.id, "disk_placement_policy", "labels")
    assert (changed.HasField("disk_placement_policy"), dict(changed.labels)) == (False, {})
    changed = update(control, disk.id, description="only this")
    assert (changed.name, changed.description, changed.size) == ("", "only this", disk.size)


def test_disk_grows_and_never_shrinks(control: ControlPlane) -> None:
    disk = created(control)
    assert update(control, disk.id, "size", size=1 << 30).size == 1 << 30
    assert control.folders.grown == {disk.id: 1 << 30}
    code, message, fields = refused(lambda: update(control, disk.id, "size", size=512 * MIB))
    assert (code, fields) == (Code.INVALID_ARGUMENT, ["size"])
    assert "only grow" in message
    assert refused(lambda: update(control, disk.id, "size", size=(1 << 30) + 512))[2] == ["size"]
    assert get(control, disk.id).size == 1 << 30


def test_delete_removes_the_disk_its_pin_and_what_was_written(control: ControlPlane) -> None:
    image_id = control.ready()
    disk = created(control, image_id=image_id, size=NEED)
    operation = delete(control, disk.id)
    assert operation.metadata.Is(disks.DeleteDiskMetadata.DESCRIPTOR)
    assert operation.response.Is(empty_pb2.Empty.DESCRIPTOR)
    assert refused(lambda: get(control, disk.id))[0] is Code.NOT_FOUND
    assert (folders(control), control.contents.pins) == ([], {image_id})
    listed = control.disks.ListOperations(disks.ListDiskOperationsRequest(disk_id=disk.id), metadata=TOKEN)
    assert [one.description for one in listed.operations] == ["Delete disk", "Create disk"]


def test_disk_in_use_stays(control: ControlPlane) -> None:
    disk = created(control)
    lock = lock_disk(control.folders.path(disk.id))
    code, message, subjects = refused(lambda: delete(control, disk.id))
    assert (code, subjects) == (Code.FAILED_PRECONDITION, [f"disk:{disk.id}"])
    assert "in use" in message
    os.close(lock)
    assert delete(control, disk.id).done


def test_disk_that_a_snapshot_is_taken_of_stays_as_it_is(control: ControlPlane) -> None:
    disk = created(control)
    operation = snapshot(control, disk.id)
    for call in (
        lambda: delete(control, disk.id),
        lambda: snapshot(control, disk.id),
        lambda: update(control, disk.id, "size", size=1 << 30),
        lambda: control.create(disk_id=disk.id),
    ):
        code, message, _ = refused(call)
        assert code is Code.FAILED_PRECONDITION
        assert operation.id in message
    update(control, disk.id, "name", name="meanwhile")
    control.succeed(control.claimed())
    assert delete(control, disk.id).done


def test_lists_are_filtered_and_ordered(control: ControlPlane) -> None:
    image_id = control.ready()
    created(control, name="a", size=64 * MIB, zone_id="Zone.1", labels={"k": "v"})
    created(control, name="b", size=32 * MIB, type_id="network-ssd")
    created(control, name="c", size=96 * MIB, image_id=image_id)
    assert names(control, order_by="size desc") == ["c", "a", "b"]
    assert names(control, order_by="createdAt") == ["a", "b", "c"]
    assert names(control, filter='typeId = "network-ssd"') == ["b"]
    assert names(control, filter='zone_id = "Zone.1" AND labels.k = "v"') == ["a"]
    assert names(control, filter=f'sourceImageId != "{image_id}" AND size IN (33554432)') == ["b"]
    page = control.disks.List(
        disks.ListDisksRequest(folder_id="f1", page_size=2, order_by="typeId desc"), metadata=TOKEN
    )
    assert page.disks[0].name == "b"
    rest = disks.ListDisksRequest(folder_id="f1", order_by="typeId desc", page_token=page.next_page_token)
    assert len(control.disks.List(rest, metadata=TOKEN).disks) == 1
    for wrong in ({"order_by": "zoneId"}, {"filter": 'family = "x"'}, {"page_token": "x"}):
        assert refused(lambda wrong=wrong: names(control, **wrong))[0] is Code.INVALID_ARGUMENT


def test_disks_do_not_move_and_have_no_schedules(control: ControlPlane) -> None:
    disk = created(control)
    move = disks.MoveDiskRequest(disk_id=disk.id, destination_folder_id="f2")
    relocate = disks.RelocateDiskRequest(disk_id=disk.id, destination_zone_id="z2")
    for call in (
        lambda: control.disks.Move(move, metadata=TOKEN),
        lambda: control.disks.Relocate(relocate, metadata=TOKEN),
    ):
        code, message, _ = refused(call)
        assert code is Code.UNIMPLEMENTED
        assert "make a snapshot" in message
    move.disk_id = "nothing"
    assert refused(lambda: control.disks.Move(move, metadata=TOKEN))[0] is Code.NOT_FOUND
    listed = disks.ListDiskSnapshotSchedulesRequest(disk_id=disk.id)
    assert control.disks.ListSnapshotSchedules(listed, metadata=TOKEN) == disks.ListDiskSnapshotSchedulesResponse()


def test_access_bindings_of_disks_are_their_own(control: ControlPlane) -> None:
    disk, image_id = created(control), control.ready()
    binding = access.AccessBinding(role_id="viewer", subject=access.Subject(id="s", type="userAccount"))
    request = access.SetAccessBindingsRequest(resource_id=disk.id, access_bindings=[binding])
    operation = control.disks.SetAccessBindings(request, metadata=TOKEN)
    assert operation.metadata.Is(access.SetAccessBindingsMetadata.DESCRIPTOR)
    listed = control.disks.ListAccessBindings(access.ListAccessBindingsRequest(resource_id=disk.id), metadata=TOKEN)
    assert list(listed.access_bindings) == [binding]
    request = access.SetAccessBindingsRequest(resource_id=image_id, access_bindings=[binding])
    assert refused(lambda: control.disks.SetAccessBindings(request, metadata=TOKEN))[0] is Code.NOT_FOUND
    other = disks.ListDiskOperationsRequest(disk_id=image_id)
    assert refused(lambda: control.disks.ListOperations(other, metadata=TOKEN))[0] is Code.NOT_FOUND


def test_quotas_bound_number_and_sizes(limited: Callable[..., ControlPlane]) -> None:
    control = limited(disks=2, disk_bytes=160 * MIB)
    disk = created(control)
    created(control)
    assert refused(lambda: create(control))[::2] == (Code.RESOURCE_EXHAUSTED, ["folder:f1/disks"])
    too_large = lambda: update(control, disk.id, "size", size=100 * MIB)  # noqa: E731
    assert refused(too_large)[::2] == (Code.RESOURCE_EXHAUSTED, ["folder:f1/disk_bytes"])
    assert update(control, disk.id, "size", size=96 * MIB).size == 96 * MIB
    assert len(folders(control)) == 2


def test_folder_stays_when_a_commit_that_failed_did_happen(
    control: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = control.database.write

    def lost(work: Any, **how: Any) -> Any:
        write(work, **how)
        raise OperationalError("COMMIT", {}, Exception("the server closed the connection"))

    monkeypatch.setattr(control.database, "write", lost)
    assert refused(lambda: create(control, name="d"))[0] is Code.INTERNAL
    monkeypatch.undo()
    assert names(control) == ["d"]
    assert len(folders(control)) == 1


def test_sweep_removes_what_crashes_left_and_nothing_that_may_be_wanted(control: ControlPlane) -> None:
    kept = created(control)
    stray, young = (control.folders.path(f"fhm{name}000000000000") for name in ("stray", "young"))
    for path in (stray, young):
        create_overlay(path, size=64 * MIB)
    os.utime(stray, (1e9, 1e9))
    gone = created(control)
    delete(control, gone.id)
    create_overlay(control.folders.path(gone.id), size=64 * MIB)
    unreadable = control.folders.path("fhmunreadable0000000")
    unreadable.mkdir()
    os.utime(unreadable, (1e9, 1e9))
    sweep(control.database, control.folders)
    assert folders(control) == sorted([kept.id, unreadable.name, young.name])
