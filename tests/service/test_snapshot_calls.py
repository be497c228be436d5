"""Every call of SnapshotService, and images from snapshots and disks, over gRPC on a real catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, field_mask_pb2
from google.rpc import status_pb2
from sqlalchemy.engine import Connection

from service._pb.dataplane.v1 import image_details_pb2 as details
from service._pb.yandex.cloud.access import access_pb2 as access
from service._pb.yandex.cloud.compute.v1 import disk_pb2, image_pb2, snapshot_pb2
from service._pb.yandex.cloud.compute.v1 import disk_service_pb2 as disks
from service._pb.yandex.cloud.compute.v1 import hardware_generation_pb2 as pci
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.compute.v1 import snapshot_service_pb2 as snapshots
from service._pb.yandex.cloud.operation import operation_pb2
from service._pb.yandex.cloud.operation import operation_service_pb2 as operations
from service.catalog import operation_rows
from service.operations import ending
from tests.service.control import CONTENT, TOKEN, ControlPlane
from tests.service.test_disk_calls import created, delete, snapshot
from tests.service.test_image_calls import refused

Code = grpc.StatusCode
MIB = 1 << 20
NEED = 12 * MIB


def id_of(operation: operation_pb2.Operation) -> str:
    metadata = snapshots.CreateSnapshotMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata.snapshot_id


def get(control: ControlPlane, snapshot_id: str) -> snapshot_pb2.Snapshot:
    return control.snapshots.Get(snapshots.GetSnapshotRequest(snapshot_id=snapshot_id), metadata=TOKEN)


def taken(control: ControlPlane, disk_id: str, **fields: Any) -> snapshot_pb2.Snapshot:
    """Make a snapshot that is READY."""
    operation = snapshot(control, disk_id, **fields)
    control.succeed(control.claimed())
    return get(control, id_of(operation))


def finished(control: ControlPlane, operation: operation_pb2.Operation) -> operation_pb2.Operation:
    request = operations.GetOperationRequest(operation_id=operation.id)
    return control.operations.Get(request, metadata=TOKEN)


def image_of(operation: operation_pb2.Operation) -> image_pb2.Image:
    image = image_pb2.Image()
    assert operation.response.Unpack(image), operation
    return image


def windows_disk(control: ControlPlane) -> disk_pb2.Disk:
    """Make a disk from an image that has everything that is inherited."""
    hardware = pci.HardwareGeneration(generation2_features=pci.Generation2HardwareFeatures())
    image_id = control.ready(
        product_ids=["p1"], os=image_pb2.Os(type=image_pb2.Os.WINDOWS), hardware_generation=hardware, family="fam"
    )
    return created(control, image_id=image_id, size=NEED)


def test_snapshot_is_created_by_a_worker(control: ControlPlane) -> None:
    disk = created(control, size=64 * MIB)
    operation = snapshot(control, disk.id, name="s", description="d", labels={"a": "b"})
    metadata = snapshots.CreateSnapshotMetadata()
    assert operation.metadata.Unpack(metadata)
    assert (operation.done, operation.description, metadata.disk_id) == (False, "Create snapshot", disk.id)
    creating = get(control, metadata.snapshot_id)
    assert (creating.status, creating.disk_size, creating.storage_size) == (
        snapshot_pb2.Snapshot.CREATING,
        disk.size,
        0,
    )
    claimed = control.claimed()
    assert claimed.disk_id == disk.id
    control.succeed(claimed)
    ready, done = get(control, metadata.snapshot_id), finished(control, operation)
    answered = snapshot_pb2.Snapshot()
    assert done.response.Unpack(answered)
    assert done.metadata == operation.metadata
    assert answered == ready
    ready.ClearField("created_at")
    assert ready == snapshot_pb2.Snapshot(
        id=metadata.snapshot_id, folder_id="f1", name="s", description="d", labels={"a": "b"}, disk_size=disk.size,
        storage_size=CONTENT.storage_size, status=snapshot_pb2.Snapshot.READY, source_disk_id=disk.id,
    )  # fmt: skip
    assert control.contents.pins == {ready.id}


def test_snapshot_inherits_and_passes_on(control: ControlPlane) -> None:
    disk = windows_disk(control)
    found = taken(control, disk.id)
    assert (list(found.product_ids), found.hardware_generation) == (["p1"], disk.hardware_generation)
    request = images.CreateImageRequest(folder_id="f1", snapshot_id=found.id, product_ids=["p2"])
    image = image_of(control.images.Create(request, metadata=TOKEN))
    assert (image.os.type, list(image.product_ids), image.family) == (image_pb2.Os.WINDOWS, ["p1", "p2"], "")
    assert image.hardware_generation == disk.hardware_generation
    assert (image.status, image.storage_size) == (image_pb2.Image.READY, found.storage_size)
    back = created(control, snapshot_id=found.id, size=NEED)
    assert (back.source_snapshot_id, list(back.product_ids)) == (found.id, ["p1"])


def test_sizes_are_those_of_the_content(control: ControlPlane) -> None:
    disk = created(control)
    operation = snapshot(control, disk.id)
    request = details.GetSizesRequest(snapshot_id=id_of(operation))
    assert refused(lambda: control.details.GetSizes(request, metadata=TOKEN))[0] is Code.FAILED_PRECONDITION
    control.succeed(control.claimed())
    sizes = control.details.GetSizes(request, metadata=TOKEN)
    assert (sizes.snapshot_id, sizes.image_id) == (request.snapshot_id, "")
    assert (sizes.root, sizes.allocated_size) == (CONTENT.root, CONTENT.allocated_size)


def test_hardware_of_the_request_wins(control: ControlPlane) -> None:
    legacy = pci.HardwareGeneration(legacy_features=pci.LegacyHardwareFeatures(pci_topology=pci.PCI_TOPOLOGY_V1))
    assert taken(control, windows_disk(control).id, hardware_generation=legacy).hardware_generation == legacy


def test_image_of_a_disk_is_made_by_a_worker(control: ControlPlane) -> None:
    disk = windows_disk(control)
    operation = control.create(disk_id=disk.id, name="img")
    assert not operation.done
    claimed = control.claimed()
    assert (claimed.disk_id, claimed.resource_id != disk.id) == (disk.id, True)
    creating = control.images.Get(images.GetImageRequest(image_id=claimed.resource_id), metadata=TOKEN)
    assert (creating.min_disk_size, creating.os.type) == (disk.size, image_pb2.Os.WINDOWS)
    control.succeed(claimed)
    image = image_of(finished(control, operation))
    assert (image.status, image.storage_size, list(image.product_ids)) == (
        image_pb2.Image.READY, CONTENT.storage_size, ["p1"],
    )  # fmt: skip


@pytest.mark.parametrize("source", ["disk_id", "snapshot_id"])
def test_min_disk_size_is_at_least_the_disks(control: ControlPlane, source: str) -> None:
    disk = created(control, size=64 * MIB)
    source_id, least = (disk.id, disk.size) if source == "disk_id" else (taken(control, disk.id).id, NEED)
    code, message, fields = refused(lambda: control.create(min_disk_size=least - 4 * MIB, **{source: source_id}))
    assert (code, fields) == (Code.INVALID_ARGUMENT, ["min_disk_size"])
    assert str(least) in message


def test_disk_is_at_least_as_large_as_its_snapshots_disk(control: ControlPlane) -> None:
    found = taken(control, created(control, size=64 * MIB).id)
    code, message, fields = refused(lambda: created(control, snapshot_id=found.id, size=60 * MIB))
    assert (code, fields) == (Code.INVALID_ARGUMENT, ["size"])
    assert str(64 * MIB) in message


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)])
def test_delete_in_any_order_keeps_what_is_left(control: ControlPlane, order: tuple[int, ...]) -> None:
    image_id = control.ready()
    disk = created(control, image_id=image_id, size=NEED)
    found = taken(control, disk.id)
    again = image_of(
        control.images.Create(images.CreateImageRequest(folder_id="f1", snapshot_id=found.id), metadata=TOKEN)
    )
    ids = [image_id, disk.id, found.id, again.id]
    for index in order:
        assert control.contents.pins == set(filter(None, ids))
        match index:
            case 1:
                delete(control, disk.id)
            case 2:
                request = snapshots.DeleteSnapshotRequest(snapshot_id=found.id)
                assert control.snapshots.Delete(request, metadata=TOKEN).done
            case _:
                control.images.Delete(images.DeleteImageRequest(image_id=ids[index]), metadata=TOKEN)
        ids[index] = ""
    assert control.contents.pins == set()


def test_cancelled_snapshot_disappears_and_frees_the_disk(control: ControlPlane) -> None:
    disk = created(control)
    operation = snapshot(control, disk.id, name="s")
    cancelled = control.operations.Cancel(operations.CancelOperationRequest(operation_id=operation.id), metadata=TOKEN)
    assert cancelled.error.code == Code.CANCELLED.value[0]
    assert refused(lambda: get(control, id_of(operation)))[0] is Code.NOT_FOUND
    assert taken(control, disk.id, name="s").name == "s"
    assert control.contents.forgotten == [operation.id]


@pytest.mark.parametrize("ends_well", [True, False])
def test_what_a_worker_keeps_meanwhile_goes_however_it_ends(control: ControlPlane, ends_well: bool) -> None:
    """The worker knows the operation as it was when it claimed it; what is kept for copying came later."""
    snapshot(control, created(control).id, folder_id="f2")
    claimed = control.claimed()
    control.contents.pins.add("copy1")

    def hold(tx: Connection) -> bool:
        return operation_rows.hold(tx, claimed.id, epoch=claimed.epoch, held_pin="copy1")

    assert control.database.write(hold)
    if ends_well:
        control.succeed(claimed)
    else:
        failure = status_pb2.Status(code=1)
        control.database.write(
            lambda tx: ending.undo(tx, claimed, epoch=claimed.epoch, error=failure, contents=control.contents)
        )
    assert control.contents.pins == ({claimed.resource_id} if ends_well else set())
    late = replace(claimed, epoch=claimed.epoch - 1)
    assert not control.database.write(lambda tx: operation_rows.hold(tx, late.id, epoch=late.epoch, held_pin="x"))


def test_snapshot_that_is_being_created_cannot_be_used(control: ControlPlane) -> None:
    snapshot_id = id_of(snapshot(control, created(control).id))
    for call in (
        lambda: control.snapshots.Delete(snapshots.DeleteSnapshotRequest(snapshot_id=snapshot_id), metadata=TOKEN),
        lambda: control.create(snapshot_id=snapshot_id),
        lambda: created(control, snapshot_id=snapshot_id),
    ):
        assert refused(call)[::2] == (Code.FAILED_PRECONDITION, [f"snapshot:{snapshot_id}"])


def test_update_and_delete(control: ControlPlane) -> None:
    found = taken(control, created(control).id, name="old", labels={"a": "1"})
    mask = field_mask_pb2.FieldMask(paths=["name"])
    request = snapshots.UpdateSnapshotRequest(snapshot_id=found.id, update_mask=mask, name="new")
    operation = control.snapshots.Update(request, metadata=TOKEN)
    assert operation.metadata.Is(snapshots.UpdateSnapshotMetadata.DESCRIPTOR)
    assert (get(control, found.id).name, dict(get(control, found.id).labels)) == ("new", {"a": "1"})
    gone = control.snapshots.Delete(snapshots.DeleteSnapshotRequest(snapshot_id=found.id), metadata=TOKEN)
    assert gone.response.Is(empty_pb2.Empty.DESCRIPTOR)
    assert gone.metadata.Is(snapshots.DeleteSnapshotMetadata.DESCRIPTOR)
    assert refused(lambda: get(control, found.id))[0] is Code.NOT_FOUND
    listed = control.snapshots.ListOperations(
        snapshots.ListSnapshotOperationsRequest(snapshot_id=found.id), metadata=TOKEN
    )
    kinds = [one.description for one in listed.operations]
    assert kinds == ["Delete snapshot", "Update snapshot", "Create snapshot"]
    assert listed.operations[2].metadata.Is(snapshots.CreateSnapshotMetadata.DESCRIPTOR)


def test_lists(control: ControlPlane) -> None:
    small, large = created(control, size=32 * MIB), created(control, size=64 * MIB)
    for name, disk in (("a", large), ("b", small), ("c", large)):
        taken(control, disk.id, name=name)

    def names(**fields: Any) -> list[str]:
        request = snapshots.ListSnapshotsRequest(folder_id="f1", **fields)
        return [found.name for found in control.snapshots.List(request, metadata=TOKEN).snapshots]

    assert names(order_by="diskSize desc")[-1] == "b"
    assert names(filter=f'sourceDiskId = "{large.id}"', order_by="name desc") == ["c", "a"]
    assert names(filter="diskSize = 33554432") == ["b"]


def test_snapshot_is_shared_by_a_binding(control: ControlPlane) -> None:
    found = taken(control, created(control).id)
    everybody = access.AccessBinding(
        role_id="compute.snapshots.user", subject=access.Subject(id="allAuthenticatedUsers", type="system")
    )
    deltas = [access.AccessBindingDelta(action=access.AccessBindingAction.ADD, access_binding=everybody)]
    request = access.UpdateAccessBindingsRequest(resource_id=found.id, access_binding_deltas=deltas)
    assert control.snapshots.UpdateAccessBindings(request, metadata=TOKEN).done
    listed = control.snapshots.ListAccessBindings(
        access.ListAccessBindingsRequest(resource_id=found.id), metadata=TOKEN
    )
    assert list(listed.access_bindings) == [everybody]


def test_quotas_count_the_sizes_of_disks(limited: Callable[..., ControlPlane]) -> None:
    control = limited(snapshots=2, snapshot_bytes=100 * MIB)
    disk, other = created(control, size=64 * MIB), created(control, size=32 * MIB)
    taken(control, disk.id)
    assert refused(lambda: snapshot(control, disk.id))[::2] == (Code.RESOURCE_EXHAUSTED, ["folder:f1/snapshot_bytes"])
    taken(control, other.id)
    assert refused(lambda: snapshot(control, other.id))[::2] == (Code.RESOURCE_EXHAUSTED, ["folder:f1/snapshots"])


def test_quota_of_image_bytes_holds_for_images_of_disks(limited: Callable[..., ControlPlane]) -> None:
    control = limited(bytes=CONTENT.storage_size)
    disk = created(control)
    control.create(disk_id=disk.id)
    control.succeed(control.claimed())
    assert refused(lambda: control.create(disk_id=disk.id))[0] is Code.RESOURCE_EXHAUSTED


def test_repeated_calls_give_the_same_operation(control: ControlPlane) -> None:
    disk = created(control)
    found = taken(control, disk.id)
    calls: list[tuple[Any, Any]] = [
        (control.snapshots.Update, snapshots.UpdateSnapshotRequest(snapshot_id=found.id, name="a")),
        (control.snapshots.Delete, snapshots.DeleteSnapshotRequest(snapshot_id=found.id)),
        (control.snapshots.Create, snapshots.CreateSnapshotRequest(folder_id="f1", disk_id=disk.id)),
        (control.disks.Update, disks.UpdateDiskRequest(disk_id=disk.id, name="b")),
        (control.disks.SetAccessBindings, access.SetAccessBindingsRequest(resource_id=disk.id)),
    ]
    for call, request in calls:
        key = (*TOKEN, ("idempotency-key", type(request).__name__))
        assert call(request, metadata=key) == call(request, metadata=key)
    control.succeed(control.claimed())
    assert control.claim() is None
    gone, key = disks.DeleteDiskRequest(disk_id=disk.id), (*TOKEN, ("idempotency-key", "gone"))
    assert control.disks.Delete(gone, metadata=key) == control.disks.Delete(gone, metadata=key)
