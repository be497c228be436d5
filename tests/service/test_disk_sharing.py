"""Whose disks and snapshots a caller may see, use and change."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from service._pb.dataplane.v1 import disk_exports_pb2 as exports
from service._pb.dataplane.v1 import disk_exports_pb2_grpc
from service._pb.dataplane.v1 import image_details_pb2 as details
from service._pb.yandex.cloud.access import access_pb2 as access
from service._pb.yandex.cloud.compute.v1 import disk_pb2
from service._pb.yandex.cloud.compute.v1 import disk_service_pb2 as disks
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.compute.v1 import snapshot_service_pb2 as snapshots
from service.auth import Caller
from service.config import Address
from service.exporting import DiskExports
from service.faults import PermissionDenied
from service.identity.policy import ROLES
from service.nbd.tokens import ExportTokens
from tests.service.control import ControlPlane, as_
from tests.service.test_image_calls import refused

Code = grpc.StatusCode
MIB = 1 << 20


def disk_in(control: ControlPlane, folder_id: str) -> str:
    request = disks.CreateDiskRequest(folder_id=folder_id, zone_id="z", size=64 * MIB)
    disk = disk_pb2.Disk()
    assert control.disks.Create(request, metadata=as_(folder_id)).response.Unpack(disk)
    return disk.id


def snapshot_in(control: ControlPlane, folder_id: str, disk_id: str) -> str:
    request = snapshots.CreateSnapshotRequest(folder_id=folder_id, disk_id=disk_id)
    metadata = snapshots.CreateSnapshotMetadata()
    assert control.snapshots.Create(request, metadata=as_(folder_id)).metadata.Unpack(metadata)
    control.succeed(control.claimed())
    return metadata.snapshot_id


def share(stub: Any, resource_id: str, role_id: str) -> None:
    subject = access.Subject(id="mine", type="userAccount")
    binding = access.AccessBinding(role_id=role_id, subject=subject)
    request = access.SetAccessBindingsRequest(resource_id=resource_id, access_bindings=[binding])
    assert stub.SetAccessBindings(request, metadata=as_("theirs")).done


def test_foreign_folder_is_not_there_and_a_visible_one_may_forbid(policed: ControlPlane) -> None:
    disk_id = disk_in(policed, "theirs")
    snapshot_id = snapshot_in(policed, "theirs", disk_id)
    exporting = disk_exports_pb2_grpc.DiskExportServiceStub(policed.channel)
    calls: list[tuple[Any, Any]] = [
        (policed.disks.Get, disks.GetDiskRequest(disk_id=disk_id)),
        (policed.disks.List, disks.ListDisksRequest(folder_id="theirs")),
        (policed.disks.Create, disks.CreateDiskRequest(folder_id="theirs", zone_id="z", size=4 * MIB)),
        (policed.disks.Update, disks.UpdateDiskRequest(disk_id=disk_id)),
        (policed.disks.Delete, disks.DeleteDiskRequest(disk_id=disk_id)),
        (policed.disks.Move, disks.MoveDiskRequest(disk_id=disk_id, destination_folder_id="mine")),
        (policed.disks.Relocate, disks.RelocateDiskRequest(disk_id=disk_id, destination_zone_id="y")),
        (policed.disks.ListOperations, disks.ListDiskOperationsRequest(disk_id=disk_id)),
        (policed.disks.ListSnapshotSchedules, disks.ListDiskSnapshotSchedulesRequest(disk_id=disk_id)),
        (policed.disks.ListAccessBindings, access.ListAccessBindingsRequest(resource_id=disk_id)),
        (policed.disks.SetAccessBindings, access.SetAccessBindingsRequest(resource_id=disk_id)),
        (policed.snapshots.Get, snapshots.GetSnapshotRequest(snapshot_id=snapshot_id)),
        (policed.snapshots.List, snapshots.ListSnapshotsRequest(folder_id="theirs")),
        (policed.snapshots.Create, snapshots.CreateSnapshotRequest(folder_id="theirs", disk_id=disk_id)),
        (policed.snapshots.Create, snapshots.CreateSnapshotRequest(folder_id="mine", disk_id=disk_id)),
        (policed.snapshots.Update, snapshots.UpdateSnapshotRequest(snapshot_id=snapshot_id)),
        (policed.snapshots.Delete, snapshots.DeleteSnapshotRequest(snapshot_id=snapshot_id)),
        (policed.snapshots.ListOperations, snapshots.ListSnapshotOperationsRequest(snapshot_id=snapshot_id)),
        (policed.snapshots.ListAccessBindings, access.ListAccessBindingsRequest(resource_id=snapshot_id)),
        (policed.images.Create, images.CreateImageRequest(folder_id="mine", disk_id=disk_id)),
        (policed.images.Create, images.CreateImageRequest(folder_id="mine", snapshot_id=snapshot_id)),
        (policed.details.GetSizes, details.GetSizesRequest(snapshot_id=snapshot_id)),
    ]
    for call, request in calls:
        assert refused(lambda c=call, r=request: c(r, metadata=as_("mine")))[0] is Code.NOT_FOUND, request
        found = refused(lambda c=call, r=request: c(r, metadata=as_("mine/theirs")))[0]
        assert found is Code.PERMISSION_DENIED, request
    request = exports.CreateDiskExportRequest(disk_id=disk_id)
    assert refused(lambda: exporting.Create(request, metadata=as_("mine")))[0] is Code.UNIMPLEMENTED


def test_binding_shares_a_disk_and_a_snapshot_for_reading_only(policed: ControlPlane) -> None:
    disk_id = disk_in(policed, "theirs")
    snapshot_id = snapshot_in(policed, "theirs", disk_id)
    share(policed.disks, disk_id, "compute.disks.user")
    share(policed.snapshots, snapshot_id, "compute.snapshots.user")
    mine = as_("mine")
    assert policed.disks.Get(disks.GetDiskRequest(disk_id=disk_id), metadata=mine).folder_id == "theirs"
    image = images.CreateImageRequest(folder_id="mine", snapshot_id=snapshot_id)
    assert not policed.images.Create(image, metadata=mine).done
    far = disks.CreateDiskRequest(folder_id="mine", zone_id="z", size=64 * MIB, snapshot_id=snapshot_id)
    assert not policed.disks.Create(far, metadata=mine).done
    taken = snapshots.CreateSnapshotRequest(folder_id="mine", disk_id=disk_id)
    assert not policed.snapshots.Create(taken, metadata=mine).done
    for call, request in (
        (policed.disks.Delete, disks.DeleteDiskRequest(disk_id=disk_id)),
        (policed.disks.Update, disks.UpdateDiskRequest(disk_id=disk_id)),
        (policed.snapshots.Delete, snapshots.DeleteSnapshotRequest(snapshot_id=snapshot_id)),
    ):
        assert refused(lambda c=call, r=request: c(r, metadata=mine))[0] is Code.NOT_FOUND


def test_role_of_another_kind_shares_nothing(policed: ControlPlane) -> None:
    disk_id = disk_in(policed, "theirs")
    share(policed.disks, disk_id, "compute.images.user")
    get = disks.GetDiskRequest(disk_id=disk_id)
    assert refused(lambda: policed.disks.Get(get, metadata=as_("mine")))[0] is Code.NOT_FOUND


def test_who_may_only_look_at_a_disk_gets_no_name_to_write_to_it(policed: ControlPlane) -> None:
    disk_id = disk_in(policed, "theirs")
    made = DiskExports(policed.database, ExportTokens(b"k" * 32), Address("h", 1))
    viewer = Caller("v", {"theirs": ROLES["viewer"]})
    with pytest.raises(PermissionDenied):
        made.create(disk_id, viewer, read_only=False, lifetime_s=0)
    found = made.create(disk_id, viewer, read_only=True, lifetime_s=10)
    access_ = ExportTokens(b"k" * 32).read(found.name)
    assert access_ is not None
    assert access_.read_only
    editor = Caller("e", {"theirs": ROLES["editor"]})
    assert made.create(disk_id, editor, read_only=False, lifetime_s=0).address == Address("h", 1)
