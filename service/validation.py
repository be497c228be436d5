"""What a request may hold: one table of constraints for each message. Every wrong field is reported at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from service import disk_sizes
from service._pb.dataplane.v1 import disk_exports_pb2 as exports
from service._pb.dataplane.v1 import image_details_pb2 as details
from service._pb.yandex.cloud.access import access_pb2 as access
from service._pb.yandex.cloud.compute.v1 import disk_service_pb2 as disks
from service._pb.yandex.cloud.compute.v1 import hardware_generation_pb2, image_pb2
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.compute.v1 import snapshot_service_pb2 as snapshots
from service._pb.yandex.cloud.iam.v1 import iam_token_service_pb2 as iam
from service._pb.yandex.cloud.operation import operation_service_pb2 as operations
from service.faults import InvalidRequest, Violation, shown
from service.identity.issued import LIFETIME_S
from service.model import BLOCK_SIZE_DEFAULT, DISK_TYPE_DEFAULT
from service.rules import Rule, Text, choice, each, mapping, number, one_of, text, texts, update_mask, uri

ID_LENGTH_MAX = 50

NAME = re.compile(r"(?:|[a-z](?:[-_a-z0-9]{0,61}[a-z0-9])?)")
FAMILY = re.compile(r"(?:|[a-z][-a-z0-9]{1,61}[a-z0-9])")
LABEL_KEY = re.compile(r"[a-z][-_./\@0-9a-z]*")
LABEL_VALUE = re.compile(r"[-_./\@0-9a-z]*")


def _id(name: str) -> Rule:
    return text(name, required=True, length_max=ID_LENGTH_MAX)


LABELS = mapping(
    "labels",
    size_max=64,
    key=Text(required=True, length_max=63, pattern=LABEL_KEY),
    value=Text(length_max=63, pattern=LABEL_VALUE),
)
SIZE_UPDATED_MAX = 4398046511104
"""Less than a disk may have when it is created."""

MIN_DISK_SIZE = number("min_disk_size", low=4194304, high=4398046511104)


NAMED = (text("name", pattern=NAME), text("description", length_max=256), LABELS)
HARDWARE = (
    choice("hardware_generation.legacy_features.pci_topology", hardware_generation_pb2.PCITopology.values()),
    text("hardware_generation.generation2_features.secure_boot_template_id", length_max=256),
)
PLACEMENT = (
    text("disk_placement_policy.placement_group_id", length_max=ID_LENGTH_MAX),
    number("disk_placement_policy.placement_group_partition", low=1, high=(1 << 63) - 1),
)
LIST = (
    _id("folder_id"),
    number("page_size", low=0, high=1000),
    text("page_token", length_max=100),
    text("filter", length_max=1000),
    text("order_by", length_max=100),
)
PAGE = (number("page_size", low=0, high=1000), text("page_token", length_max=100))


def disk_size(request: Any) -> Iterator[Violation]:
    """A kind and a block size that there are, and a size that goes with them."""
    type_id, block_size = request.type_id or DISK_TYPE_DEFAULT, request.block_size or BLOCK_SIZE_DEFAULT
    if type_id not in disk_sizes.STEPS:
        yield Violation("type_id", f"{shown(type_id)} is none of {', '.join(disk_sizes.STEPS)}")
    if block_size not in disk_sizes.BLOCK_SIZES:
        known = ", ".join(map(str, disk_sizes.BLOCK_SIZES))
        yield Violation("block_size", f"{block_size} is none of {known}")
    if not request.size:
        yield Violation("size", "is required")
    elif type_id in disk_sizes.STEPS and block_size in disk_sizes.BLOCK_SIZES:
        found = disk_sizes.problems(request.size, type_id=type_id, block_size=block_size)
        yield from (Violation("size", problem) for problem in found)


def _binding(prefix: str = "") -> tuple[Rule, ...]:
    return (
        text(f"{prefix}role_id", required=True, length_max=64),
        text(f"{prefix}subject.id", required=True, length_max=100),
        text(f"{prefix}subject.type", required=True, length_max=100),
    )


RULES: dict[type[Message], tuple[Rule, ...]] = {
    images.GetImageRequest: (_id("image_id"),),
    images.DeleteImageRequest: (_id("image_id"),),
    images.ListImagesRequest: LIST,
    images.CreateImageRequest: (
        _id("folder_id"),
        *NAMED,
        text("family", pattern=FAMILY),
        MIN_DISK_SIZE,
        texts("product_ids", length_max=ID_LENGTH_MAX),
        one_of(
            "source",
            image_id=_id("image_id"),
            disk_id=_id("disk_id"),
            snapshot_id=_id("snapshot_id"),
            uri=uri,
        ),
        choice("os.type", image_pb2.Os.Type.values()),
        text("os.nvidia.driver", length_max=256),
        *HARDWARE,
    ),
    images.GetImageLatestByFamilyRequest: (_id("folder_id"), text("family", pattern=FAMILY)),
    images.UpdateImageRequest: (
        _id("image_id"),
        update_mask("name", "description", "min_disk_size", "labels"),
        *NAMED,
        MIN_DISK_SIZE,
    ),
    images.ListImageOperationsRequest: (_id("image_id"), *PAGE),
    disks.GetDiskRequest: (_id("disk_id"),),
    disks.DeleteDiskRequest: (_id("disk_id"),),
    disks.ListDisksRequest: LIST,
    disks.CreateDiskRequest: (
        _id("folder_id"),
        *NAMED,
        text("type_id", length_max=ID_LENGTH_MAX),
        _id("zone_id"),
        disk_size,
        one_of("source", required=False, image_id=_id("image_id"), snapshot_id=_id("snapshot_id")),
        *PLACEMENT,
        texts("snapshot_schedule_ids", required=True, length_max=ID_LENGTH_MAX),
        *HARDWARE,
        text("kms_key_id", length_max=ID_LENGTH_MAX),
    ),
    disks.UpdateDiskRequest: (
        _id("disk_id"),
        update_mask("name", "description", "labels", "size", "disk_placement_policy"),
        *NAMED,
        number("size", low=disk_sizes.SIZE_MIN, high=SIZE_UPDATED_MAX),
        *PLACEMENT,
    ),
    disks.ListDiskOperationsRequest: (_id("disk_id"), *PAGE),
    disks.MoveDiskRequest: (_id("disk_id"), _id("destination_folder_id")),
    disks.RelocateDiskRequest: (_id("disk_id"), _id("destination_zone_id"), *PLACEMENT),
    disks.ListDiskSnapshotSchedulesRequest: (_id("disk_id"), *PAGE),
    snapshots.GetSnapshotRequest: (_id("snapshot_id"),),
    snapshots.DeleteSnapshotRequest: (_id("snapshot_id"),),
    snapshots.ListSnapshotsRequest: LIST,
    snapshots.CreateSnapshotRequest: (_id("folder_id"), _id("disk_id"), *NAMED, *HARDWARE),
    snapshots.UpdateSnapshotRequest: (
        _id("snapshot_id"),
        update_mask("name", "description", "labels"),
        *NAMED,
    ),
    snapshots.ListSnapshotOperationsRequest: (_id("snapshot_id"), *PAGE),
    access.ListAccessBindingsRequest: (
        text("resource_id", required=True, length_max=64),
        number("page_size", low=0, high=1000),
        text("page_token", length_max=2000),
    ),
    access.SetAccessBindingsRequest: (
        text("resource_id", required=True, length_max=64),
        each("access_bindings", *_binding(), size_max=1000),
    ),
    access.UpdateAccessBindingsRequest: (
        text("resource_id", required=True, length_max=64),
        each(
            "access_binding_deltas",
            choice("action", (access.AccessBindingAction.ADD, access.AccessBindingAction.REMOVE)),
            *_binding("access_binding."),
            size_min=1,
            size_max=1000,
        ),
    ),
    operations.GetOperationRequest: (text("operation_id", required=True),),
    operations.CancelOperationRequest: (text("operation_id", required=True),),
    iam.CreateIamTokenRequest: (
        one_of(
            "identity",
            yandex_passport_oauth_token=text("yandex_passport_oauth_token", required=True, length_max=4000),
            jwt=text("jwt", required=True, length_max=8000),
        ),
    ),
    exports.CreateDiskExportRequest: (_id("disk_id"), number("lifetime_seconds", low=1, high=LIFETIME_S)),
    details.GetSizesRequest: (one_of("resource", image_id=_id("image_id"), snapshot_id=_id("snapshot_id")),),
    details.GetProgressRequest: (_id("operation_id"),),
    details.WatchProgressRequest: (_id("operation_id"),),
    details.ReplaceSourceRequest: (_id("operation_id"), uri),
}


def violations(request: Message) -> list[Violation]:
    """Return everything that is wrong with `request`, in the order of its table."""
    return [violation for rule in RULES[type(request)] for violation in rule(request)]


def check(request: Message) -> None:
    """Raise InvalidRequest when anything is wrong with `request`."""
    found = violations(request)
    if found:
        raise InvalidRequest(found)
