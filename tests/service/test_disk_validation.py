"""Every constraint on requests about disks and snapshots, at its bounds and just outside them."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import field_mask_pb2
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from service import disk_sizes, validation
from service._pb.dataplane.v1 import disk_exports_pb2 as exports
from service._pb.yandex.cloud.compute.v1 import disk_pb2
from service._pb.yandex.cloud.compute.v1 import disk_service_pb2 as disks
from service._pb.yandex.cloud.compute.v1 import hardware_generation_pb2 as pci
from service._pb.yandex.cloud.compute.v1 import snapshot_service_pb2 as snapshots

MIB4 = 4 << 20
GIB = 1 << 30
TIB = 1 << 40
MOST = 28_587_302_322_176
UNKNOWN_PCI = pci.HardwareGeneration(
    legacy_features=pci.LegacyHardwareFeatures(pci_topology=pci.PCITopology.ValueType(9))
)


def create(**fields: Any) -> disks.CreateDiskRequest:
    given: dict[str, Any] = {"folder_id": "f", "zone_id": "z", "size": MIB4} | fields
    return disks.CreateDiskRequest(**given)


def update(*paths: str, **fields: Any) -> disks.UpdateDiskRequest:
    return disks.UpdateDiskRequest(disk_id="d", update_mask=field_mask_pb2.FieldMask(paths=paths), **fields)


def take(**fields: Any) -> snapshots.CreateSnapshotRequest:
    return snapshots.CreateSnapshotRequest(**{"folder_id": "f", "disk_id": "d"} | fields)


def policy(**fields: Any) -> dict[str, Any]:
    return {"disk_placement_policy": disk_pb2.DiskPlacementPolicy(**fields)}


RIGHT = {
    "least": create(),
    "size_most": create(size=MOST, block_size=32768),
    "size_most_of_4_kib": create(size=8 * TIB),
    "size_most_of_8_kib": create(size=16 * TIB, block_size=8192),
    "blocks_of_128_kib": create(block_size=131072),
    "ssd": create(type_id="network-ssd"),
    "nonreplicated": create(type_id="network-ssd-nonreplicated", size=93 * GIB),
    "io_m3": create(type_id="network-ssd-io-m3", size=186 * GIB),
    "image": create(image_id="i" * 50),
    "snapshot": create(snapshot_id="s"),
    "placement": create(**policy(placement_group_id="g" * 50, placement_group_partition=3)),
    "key_and_schedules": create(kms_key_id="k" * 50, snapshot_schedule_ids=["s"]),
    "update_least": update("size", size=MIB4),
    "update_most": update("size", size=4 * TIB),
    "update_all_paths": update("name", "description", "labels", "size", "disk_placement_policy"),
    "update_no_mask": update(),
    "snapshot_least": take(),
    "snapshot_full": take(name="a" * 63, description="d" * 256, labels={"k": "v"}),
    "list_disks": disks.ListDisksRequest(folder_id="f", page_size=1000, filter="f" * 1000),
    "list_snapshots": snapshots.ListSnapshotsRequest(folder_id="f", order_by="o" * 100),
    "export": exports.CreateDiskExportRequest(disk_id="d", lifetime_seconds=3600),
    "export_default": exports.CreateDiskExportRequest(disk_id="d"),
}

WRONG = {
    "nothing": (disks.CreateDiskRequest(), ["folder_id", "zone_id", "size"]),
    "folder_51": (create(folder_id="f" * 51), ["folder_id"]),
    "zone_51": (create(zone_id="z" * 51), ["zone_id"]),
    "zone_nul": (create(zone_id="z\0"), ["zone_id"]),
    "name": (create(name="A"), ["name"]),
    "description_257": (create(description="d" * 257), ["description"]),
    "labels": (create(labels={"K": "v"}), ["labels"]),
    "size_negative": (create(size=-MIB4), ["size", "size"][:1]),
    "size_small": (create(size=MIB4 // 2), ["size", "size"]),
    "size_large": (create(size=MOST + MIB4, block_size=131072), ["size"]),
    "size_odd": (create(size=MIB4 + 512), ["size"]),
    "size_more_than_4_kib_blocks_can": (create(size=8 * TIB + MIB4), ["size"]),
    "nonreplicated_step": (create(type_id="network-ssd-nonreplicated", size=94 * GIB), ["size"]),
    "type_unknown": (create(type_id="floppy"), ["type_id"]),
    "type_51": (create(type_id="t" * 51), ["type_id", "type_id"]),
    "block_size_small": (create(block_size=2048), ["block_size"]),
    "block_size_odd": (create(block_size=12288), ["block_size"]),
    "block_size_large": (create(block_size=262144), ["block_size"]),
    "image_empty": (create(image_id=""), ["image_id"]),
    "image_51": (create(image_id="i" * 51), ["image_id"]),
    "snapshot_empty": (create(snapshot_id=""), ["snapshot_id"]),
    "group_51": (create(**policy(placement_group_id="g" * 51)), ["disk_placement_policy.placement_group_id"]),
    "partition_negative": (
        create(**policy(placement_group_partition=-1)),
        ["disk_placement_policy.placement_group_partition"],
    ),
    "schedule_empty": (create(snapshot_schedule_ids=["s", ""]), ["snapshot_schedule_ids[1]"]),
    "key_51": (create(kms_key_id="k" * 51), ["kms_key_id"]),
    "topology": (create(hardware_generation=UNKNOWN_PCI), ["hardware_generation.legacy_features.pci_topology"]),
    "get_disk": (disks.GetDiskRequest(), ["disk_id"]),
    "delete_disk_51": (disks.DeleteDiskRequest(disk_id="d" * 51), ["disk_id"]),
    "list_disks": (disks.ListDisksRequest(page_size=1001), ["folder_id", "page_size"]),
    "list_operations": (disks.ListDiskOperationsRequest(page_token="t" * 101), ["disk_id", "page_token"]),
    "update_size_small": (update("size", size=MIB4 - 1), ["size"]),
    "update_size_large": (update("size", size=4 * TIB + 1), ["size"]),
    "update_path": (update("type_id", "zone_id"), ["update_mask", "update_mask"]),
    "move": (disks.MoveDiskRequest(), ["disk_id", "destination_folder_id"]),
    "relocate": (disks.RelocateDiskRequest(disk_id="d"), ["destination_zone_id"]),
    "schedules": (disks.ListDiskSnapshotSchedulesRequest(), ["disk_id"]),
    "snapshot_nothing": (snapshots.CreateSnapshotRequest(), ["folder_id", "disk_id"]),
    "snapshot_name": (take(name="a\n"), ["name"]),
    "snapshot_topology": (take(hardware_generation=UNKNOWN_PCI), ["hardware_generation.legacy_features.pci_topology"]),
    "get_snapshot": (snapshots.GetSnapshotRequest(), ["snapshot_id"]),
    "delete_snapshot": (snapshots.DeleteSnapshotRequest(), ["snapshot_id"]),
    "update_snapshot": (
        snapshots.UpdateSnapshotRequest(update_mask=field_mask_pb2.FieldMask(paths=["disk_size"])),
        ["snapshot_id", "update_mask"],
    ),
    "export_nothing": (exports.CreateDiskExportRequest(), ["disk_id"]),
    "export_long": (exports.CreateDiskExportRequest(disk_id="d", lifetime_seconds=3601), ["lifetime_seconds"]),
}


def fields_of(request: Message) -> list[str]:
    return [violation.field for violation in validation.violations(request)]


@pytest.mark.parametrize("request_", RIGHT.values(), ids=RIGHT)
def test_right_request_has_no_violation(request_: Message) -> None:
    assert fields_of(request_) == []


@pytest.mark.parametrize(("request_", "fields"), WRONG.values(), ids=WRONG)
def test_wrong_request_names_every_field(request_: Message, fields: list[str]) -> None:
    assert fields_of(request_) == fields


@given(
    size=st.one_of(st.integers(0, 2 * MOST), st.integers(0, MOST // MIB4).map(lambda count: count * MIB4)),
    type_id=st.sampled_from(list(disk_sizes.STEPS)),
    doubled=st.integers(0, 5),
)
def test_sizes_match_oracle(size: int, type_id: str, doubled: int) -> None:
    step = 93 * GIB if type_id in ("network-ssd-nonreplicated", "network-ssd-io-m3") else MIB4
    right = MIB4 <= size <= MOST and size % step == 0 and size <= 8 * TIB * 2**doubled
    found = list(disk_sizes.problems(size, type_id=type_id, block_size=4096 * 2**doubled))
    assert (found == []) == right
