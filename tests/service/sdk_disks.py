"""Images, disks and snapshots with the unmodified public SDK, in a process of its own; exits 0 when all is as said.

Run as: python -m tests.service.sdk_disks ENDPOINT CA SOURCE_URL NBD_CERTIFICATES
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from yandex.cloud.access.access_pb2 import ListAccessBindingsRequest
from yandex.cloud.compute.v1.disk_pb2 import Disk, DiskPlacementPolicy
from yandex.cloud.compute.v1.disk_service_pb2 import (
    CreateDiskMetadata,
    CreateDiskRequest,
    DeleteDiskMetadata,
    DeleteDiskRequest,
    GetDiskRequest,
    ListDiskOperationsRequest,
    ListDiskSnapshotSchedulesRequest,
    ListDisksRequest,
    MoveDiskRequest,
    UpdateDiskMetadata,
    UpdateDiskRequest,
)
from yandex.cloud.compute.v1.disk_service_pb2_grpc import DiskServiceStub
from yandex.cloud.compute.v1.image_pb2 import Image, Os
from yandex.cloud.compute.v1.image_service_pb2 import (
    CreateImageMetadata,
    CreateImageRequest,
    DeleteImageMetadata,
    DeleteImageRequest,
    GetImageRequest,
)
from yandex.cloud.compute.v1.image_service_pb2_grpc import ImageServiceStub
from yandex.cloud.compute.v1.snapshot_pb2 import Snapshot
from yandex.cloud.compute.v1.snapshot_service_pb2 import (
    CreateSnapshotMetadata,
    CreateSnapshotRequest,
    DeleteSnapshotMetadata,
    DeleteSnapshotRequest,
    GetSnapshotRequest,
    ListSnapshotsRequest,
    UpdateSnapshotMetadata,
    UpdateSnapshotRequest,
)
from yandex.cloud.compute.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from yandexcloud import SDK  # type: ignore[attr-defined]

from service._pb.dataplane.v1.disk_exports_pb2 import CreateDiskExportRequest  # our own: it knows no public message
from service._pb.dataplane.v1.disk_exports_pb2_grpc import DiskExportServiceStub

MIB = 1 << 20
SIZE = 32 * MIB


class Disks:
    """One caller and its folder."""

    def __init__(self, endpoint: str, ca: str, uri: str, certificates: str) -> None:
        root = Path(ca).read_bytes()
        self.uri = uri
        self.certificates = certificates
        self.sdk = SDK(endpoint=endpoint, iam_token="any", root_certificates=root)
        self.images = self.sdk.client(ImageServiceStub)
        self.disks = self.sdk.client(DiskServiceStub)
        self.snapshots = self.sdk.client(SnapshotServiceStub)
        token = grpc.access_token_call_credentials("any")
        credentials = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(root), token)
        self.exports = DiskExportServiceStub(grpc.secure_channel(endpoint, credentials))
        self.folder = f"sdk{uuid.uuid4().hex[:8]}"

    def wait(self, operation: Any, response: Any, metadata: Any) -> Any:
        """Wait as the SDK does; return the response."""
        assert operation.metadata.Is(metadata.DESCRIPTOR)
        result: Any = self.sdk.wait_operation_and_get_result(
            operation, response_type=response, meta_type=metadata, timeout=120
        )
        return result.response

    def image(self, **source: Any) -> Any:
        """Make an image."""
        request = CreateImageRequest(folder_id=self.folder, **source)
        return self.wait(self.images.Create(request), Image, CreateImageMetadata)

    def disk(self, **source: Any) -> Any:
        """Make a disk."""
        given: dict[str, Any] = {"folder_id": self.folder, "zone_id": "zone-a", "size": SIZE} | source
        request = CreateDiskRequest(**given)
        return self.wait(self.disks.Create(request), Disk, CreateDiskMetadata)

    def snapshot(self, disk_id: str, **fields: Any) -> Any:
        """Make a snapshot."""
        request = CreateSnapshotRequest(folder_id=self.folder, disk_id=disk_id, **fields)
        return self.wait(self.snapshots.Create(request), Snapshot, CreateSnapshotMetadata)

    def nbd_url(self, disk_id: str) -> str:
        """Return where a client of NBD finds a disk. The public API attaches disks to machines instead."""
        export = self.exports.Create(CreateDiskExportRequest(disk_id=disk_id))
        assert export.tls
        return f"nbds://{export.address}/{export.export_name}?tls-certificates={self.certificates}"

    def write(self, disk_id: str, data: bytes) -> None:
        """Write to the front of a disk over NBD, through TLS."""
        subprocess.run(["nbdcopy", "--flush", "-", self.nbd_url(disk_id)], input=data, check=True, timeout=120)

    def check_disks(self) -> None:
        """Fields of disks; sizes; lists; what is not offered."""
        self.base = self.image(uri=self.uri, os=Os(type=Os.WINDOWS), product_ids=["p"], family="fam", name="base")
        policy = DiskPlacementPolicy(placement_group_id="g", placement_group_partition=1)
        disk = self.disk(
            name="d", image_id=self.base.id, type_id="network-ssd", block_size=4096, disk_placement_policy=policy
        )
        assert disk == self.disks.Get(GetDiskRequest(disk_id=disk.id))
        assert (disk.type_id, disk.zone_id, disk.block_size, disk.size) == ("network-ssd", "zone-a", 4096, SIZE)
        assert (disk.source_image_id, list(disk.product_ids), disk.status) == (self.base.id, ["p"], Disk.READY)
        assert (disk.disk_placement_policy, list(disk.instance_ids)) == (policy, [])
        mask = FieldMask(paths=["size"])
        request = UpdateDiskRequest(disk_id=disk.id, update_mask=mask, size=SIZE + 4 * MIB)
        assert self.wait(self.disks.Update(request), Disk, UpdateDiskMetadata).size == SIZE + 4 * MIB
        assert [one.id for one in self.disks.List(ListDisksRequest(folder_id=self.folder)).disks] == [disk.id]
        assert len(self.disks.ListOperations(ListDiskOperationsRequest(disk_id=disk.id)).operations) == 2
        assert not self.disks.ListAccessBindings(ListAccessBindingsRequest(resource_id=disk.id)).access_bindings
        schedules = ListDiskSnapshotSchedulesRequest(disk_id=disk.id)
        assert not self.disks.ListSnapshotSchedules(schedules).snapshot_schedules
        assert self.move_refused(disk.id) == "UNIMPLEMENTED"
        self.wait(self.disks.Delete(DeleteDiskRequest(disk_id=disk.id)), Empty, DeleteDiskMetadata)

    def move_refused(self, disk_id: str) -> str:
        """Try to move a disk; return the code of the refusal."""
        try:
            self.disks.Move(MoveDiskRequest(disk_id=disk_id, destination_folder_id="x"))
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def check_round(self, order: tuple[str, ...]) -> None:
        """Image to disk, written over NBD, to snapshot, to images of both; deleted in this order."""
        disk = self.disk(image_id=self.base.id)
        self.write(disk.id, b"1" * MIB)
        snapshot = self.snapshot(disk.id, labels={"a": "b"})
        assert (snapshot.disk_size, snapshot.source_disk_id, list(snapshot.product_ids)) == (SIZE, disk.id, ["p"])
        assert snapshot == self.snapshots.Get(GetSnapshotRequest(snapshot_id=snapshot.id))
        self.write(disk.id, b"2" * 2 * MIB)
        of_snapshot, of_disk = self.image(snapshot_id=snapshot.id), self.image(disk_id=disk.id)
        assert of_snapshot.storage_size == snapshot.storage_size > 0
        for image in (of_snapshot, of_disk):
            assert (image.min_disk_size, image.size, image.os.type, list(image.product_ids)) == (
                SIZE, SIZE, Os.WINDOWS, ["p"],
            )  # fmt: skip
        again = self.disk(snapshot_id=snapshot.id)
        assert self.snapshot(again.id).storage_size == snapshot.storage_size
        made = {"disk": disk, "snapshot": snapshot, "of_snapshot": of_snapshot, "of_disk": of_disk, "again": again}
        for name in order:
            self.delete(name, made.pop(name).id)
            for kept, resource in made.items():
                self.check_there(kept, resource)

    def check_there(self, name: str, resource: Any) -> None:
        """What was not deleted is as it was."""
        if name in ("disk", "again"):
            assert self.disks.Get(GetDiskRequest(disk_id=resource.id)) == resource
        elif name == "snapshot":
            assert self.snapshots.Get(GetSnapshotRequest(snapshot_id=resource.id)) == resource
        else:
            assert self.images.Get(GetImageRequest(image_id=resource.id)) == resource
            copy = self.image(image_id=resource.id)
            assert copy.storage_size == resource.storage_size
            self.delete("of_disk", copy.id)

    def delete(self, name: str, resource_id: str) -> None:
        """Delete one of what a round makes."""
        if name in ("disk", "again"):
            self.wait(self.disks.Delete(DeleteDiskRequest(disk_id=resource_id)), Empty, DeleteDiskMetadata)
        elif name == "snapshot":
            request = DeleteSnapshotRequest(snapshot_id=resource_id)
            self.wait(self.snapshots.Delete(request), Empty, DeleteSnapshotMetadata)
        else:
            self.wait(self.images.Delete(DeleteImageRequest(image_id=resource_id)), Empty, DeleteImageMetadata)

    def check_snapshots(self) -> None:
        """Update and lists of snapshots."""
        disk = self.disk()
        snapshot = self.snapshot(disk.id, name="s")
        assert (snapshot.storage_size, snapshot.disk_size) == (0, SIZE)
        request = UpdateSnapshotRequest(snapshot_id=snapshot.id, update_mask=FieldMask(paths=["name"]), name="t")
        assert self.wait(self.snapshots.Update(request), Snapshot, UpdateSnapshotMetadata).name == "t"
        wanted = ListSnapshotsRequest(folder_id=self.folder, filter=f'sourceDiskId = "{disk.id}"')
        assert [one.name for one in self.snapshots.List(wanted).snapshots] == ["t"]


def main(endpoint: str, ca: str, uri: str, certificates: str) -> None:
    """Check everything, in this order."""
    run = Disks(endpoint, ca, uri, certificates)
    run.check_disks()
    names = ("disk", "snapshot", "of_snapshot", "of_disk", "again")
    for order in (names, names[::-1], ("snapshot", "of_snapshot", "disk", "again", "of_disk")):
        run.check_round(order)
        sys.stdout.write(f"round {order}\n")
    run.check_snapshots()
    sys.stdout.write("all\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
