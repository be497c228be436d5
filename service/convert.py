"""Between protobuf messages and the values of `service.model`; nothing is decided here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from google.protobuf import empty_pb2, json_format, timestamp_pb2
from google.protobuf.message import Message
from google.rpc import status_pb2

from service._pb.dataplane.v1 import image_details_pb2 as details
from service._pb.yandex.cloud.access import access_pb2 as access
from service._pb.yandex.cloud.compute.v1 import disk_pb2, hardware_generation_pb2, image_pb2, snapshot_pb2
from service._pb.yandex.cloud.compute.v1 import disk_service_pb2 as disks
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.compute.v1 import snapshot_service_pb2 as snapshots
from service._pb.yandex.cloud.operation import operation_pb2
from service.memo import Memo
from service.model import (
    BLOCK_SIZE_DEFAULT,
    DISK_TYPE_DEFAULT,
    PARKED,
    AccessBinding,
    BindingChange,
    Content,
    Disk,
    DiskSpec,
    Image,
    ImageSpec,
    Json,
    Operation,
    OperationKind,
    Resource,
    Snapshot,
    SnapshotSpec,
    disk_size_for,
)

if TYPE_CHECKING:
    from dataplane import Sizes


@dataclass(frozen=True, slots=True)
class _Shape:
    """What operations of one kind are called, and the messages they carry."""

    description: str
    metadata: Callable[[Operation], Message]
    response: type[Message]


def _snapshot_metadata(operation: Operation) -> Message:
    return snapshots.CreateSnapshotMetadata(snapshot_id=operation.resource_id, disk_id=operation.disk_id or "")


_SHAPES = {
    OperationKind.CREATE_IMAGE: _Shape(
        "Create image", lambda its: images.CreateImageMetadata(image_id=its.resource_id), image_pb2.Image
    ),
    OperationKind.UPDATE_IMAGE: _Shape(
        "Update image", lambda its: images.UpdateImageMetadata(image_id=its.resource_id), image_pb2.Image
    ),
    OperationKind.DELETE_IMAGE: _Shape(
        "Delete image", lambda its: images.DeleteImageMetadata(image_id=its.resource_id), empty_pb2.Empty
    ),
    OperationKind.CREATE_DISK: _Shape(
        "Create disk", lambda its: disks.CreateDiskMetadata(disk_id=its.resource_id), disk_pb2.Disk
    ),
    OperationKind.UPDATE_DISK: _Shape(
        "Update disk", lambda its: disks.UpdateDiskMetadata(disk_id=its.resource_id), disk_pb2.Disk
    ),
    OperationKind.DELETE_DISK: _Shape(
        "Delete disk", lambda its: disks.DeleteDiskMetadata(disk_id=its.resource_id), empty_pb2.Empty
    ),
    OperationKind.CREATE_SNAPSHOT: _Shape("Create snapshot", _snapshot_metadata, snapshot_pb2.Snapshot),
    OperationKind.UPDATE_SNAPSHOT: _Shape(
        "Update snapshot",
        lambda its: snapshots.UpdateSnapshotMetadata(snapshot_id=its.resource_id),
        snapshot_pb2.Snapshot,
    ),
    OperationKind.DELETE_SNAPSHOT: _Shape(
        "Delete snapshot", lambda its: snapshots.DeleteSnapshotMetadata(snapshot_id=its.resource_id), empty_pb2.Empty
    ),
    OperationKind.SET_ACCESS_BINDINGS: _Shape(
        "Set access bindings",
        lambda its: access.SetAccessBindingsMetadata(resource_id=its.resource_id),
        access.AccessBindingsOperationResult,
    ),
    OperationKind.UPDATE_ACCESS_BINDINGS: _Shape(
        "Update access bindings",
        lambda its: access.UpdateAccessBindingsMetadata(resource_id=its.resource_id),
        access.AccessBindingsOperationResult,
    ),
}
_STAGES = {
    "queued": details.Progress.QUEUED,
    "opening": details.Progress.OPENING,
    "reading": details.Progress.READING,
    "committing": details.Progress.COMMITTING,
    "done": details.Progress.DONE,
    "expired": details.Progress.SOURCE_EXPIRED,
}


def image_spec(request: images.CreateImageRequest) -> ImageSpec:
    """Return what a valid request asks for. What it leaves open is for the source to say."""
    return ImageSpec(
        **_common(request),
        product_ids=tuple(request.product_ids),
        os=_to_json(request.os),  # without its type when that is not given
        family=request.family,
        min_disk_size=request.min_disk_size,
        pooled=request.pooled,
    )


def disk_spec(request: disks.CreateDiskRequest) -> DiskSpec:
    """Return what a valid request asks for, with the usual type and block size where it names none."""
    return DiskSpec(
        **_common(request),
        product_ids=(),
        os={},
        type_id=request.type_id or DISK_TYPE_DEFAULT,
        zone_id=request.zone_id,
        size=request.size,
        block_size=request.block_size or BLOCK_SIZE_DEFAULT,
        disk_placement_policy=disk_placement_policy(request),
        source_image_id=request.image_id,
        source_snapshot_id=request.snapshot_id,
    )


def snapshot_spec(request: snapshots.CreateSnapshotRequest) -> SnapshotSpec:
    """Return what a valid request asks for. What it leaves open is for the disk to say, its size above all."""
    return SnapshotSpec(**_common(request), product_ids=(), os={}, source_disk_id=request.disk_id, disk_size=0)


def disk_placement_policy(request: disks.CreateDiskRequest | disks.UpdateDiskRequest) -> Json | None:
    """Return the placement policy of a request, None when it has none."""
    return _to_json(request.disk_placement_policy) if request.HasField("disk_placement_policy") else None


def _common(request: Any) -> dict[str, Any]:
    """Return what all requests that create something have."""
    has_hardware = request.HasField("hardware_generation")
    return {
        "folder_id": request.folder_id,
        "name": request.name,
        "description": request.description,
        "labels": dict(request.labels),
        "hardware_generation": _to_json(request.hardware_generation) if has_hardware else None,
    }


def image_message(image: Image) -> image_pb2.Image:
    """Return the image as the API shows it; sizes are 0 until it is READY."""
    spec = image.spec
    message = image_pb2.Image(
        **_fields(image),
        status=image_pb2.Image.Status.ValueType(image.status),
        family=spec.family,
        min_disk_size=spec.min_disk_size,
        pooled=spec.pooled,
    )
    if spec.os:
        message.os.CopyFrom(_os(json.dumps(spec.os)))
    if image.content is not None:
        message.storage_size = image.content.storage_size
        message.size = disk_size_for(image.content.virtual_size)
    return message


def disk_message(disk: Disk) -> disk_pb2.Disk:
    """Return the disk as the API shows it."""
    spec = disk.spec
    message = disk_pb2.Disk(
        **_fields(disk),
        status=disk_pb2.Disk.Status.ValueType(disk.status),
        type_id=spec.type_id,
        zone_id=spec.zone_id,
        size=spec.size,
        block_size=spec.block_size,
    )
    if spec.disk_placement_policy is not None:
        json_format.ParseDict(spec.disk_placement_policy, message.disk_placement_policy, ignore_unknown_fields=True)
    if spec.source_image_id:
        message.source_image_id = spec.source_image_id
    if spec.source_snapshot_id:
        message.source_snapshot_id = spec.source_snapshot_id
    return message


def snapshot_message(snapshot: Snapshot) -> snapshot_pb2.Snapshot:
    """Return the snapshot as the API shows it; `storage_size` is 0 until it is READY."""
    return snapshot_pb2.Snapshot(
        **_fields(snapshot),
        status=snapshot_pb2.Snapshot.Status.ValueType(snapshot.status),
        storage_size=snapshot.content.storage_size if snapshot.content is not None else 0,
        disk_size=snapshot.spec.disk_size,
        source_disk_id=snapshot.spec.source_disk_id,
    )


def _fields(resource: Resource[Any]) -> dict[str, Any]:
    """Return what messages of all resources have."""
    spec = resource.spec
    hardware = spec.hardware_generation
    return {
        "id": resource.id,
        "folder_id": spec.folder_id,
        "created_at": timestamp(resource.created_at_us),
        "name": spec.name,
        "description": spec.description,
        "labels": spec.labels,
        "product_ids": spec.product_ids,
        "hardware_generation": _hardware(json.dumps(hardware)) if hardware is not None else None,
    }


def operation_message(operation: Operation) -> operation_pb2.Operation:
    """Return the operation as the API shows it: metadata always, then exactly one of error and response when done."""
    shape = _SHAPES[operation.kind]
    message = operation_pb2.Operation(
        id=operation.id,
        description=shape.description,
        created_at=timestamp(operation.created_at_us),
        created_by=operation.created_by,
        modified_at=timestamp(operation.modified_at_us),
        done=operation.done,
    )
    message.metadata.Pack(shape.metadata(operation))
    if operation.error is not None:
        message.error.CopyFrom(status_pb2.Status.FromString(operation.error))
    elif operation.response is not None:
        message.response.Pack(shape.response.FromString(operation.response))
    return message


def content(sizes: Sizes, root: bytes) -> Content:
    """Return what the catalogue keeps of the result of an import, a copy or a snapshot."""
    return Content(
        root=root,
        virtual_size=sizes.virtual_size,
        data_size=sizes.data_size,
        storage_size=sizes.storage_size,
        allocated_size=sizes.allocated_size,
        chunk_size=sizes.chunk_size,
        codec=sizes.codec,
        chunks=sizes.chunks,
        distinct_chunks=sizes.distinct_chunks,
    )


def sizes_message(content: Content, **ids: str) -> details.ImageSizes:
    """Return every size of a READY image or snapshot, in bytes; `ids` says of which."""
    return details.ImageSizes(
        **ids,
        root=content.root,
        virtual_size=content.virtual_size,
        data_size=content.data_size,
        storage_size=content.storage_size,
        allocated_size=content.allocated_size,
        chunk_size=content.chunk_size,
        codec=content.codec,
        chunks=content.chunks,
        distinct_chunks=content.distinct_chunks,
    )


def progress_message(operation: Operation, *, queue_position: int = 0) -> details.Progress:
    """Return how far the operation was at its last heartbeat; `queue_position` is 0 unless it waits."""
    noted: dict[str, Any] = operation.progress or {}
    stage = "done" if operation.done else noted.get("stage", "expired" if operation.lease_owner == PARKED else "queued")
    message = details.Progress(
        operation_id=operation.id,
        stage=_STAGES.get(stage, details.Progress.STAGE_UNSPECIFIED),
        done=operation.done,
        total_bytes=noted.get("total_bytes", 0),
        position_bytes=noted.get("position_bytes", 0),
        read_bytes=noted.get("read_bytes", 0),
        zero_bytes=noted.get("zero_bytes", 0),
        duplicate_bytes=noted.get("duplicate_bytes", 0),
        new_bytes=noted.get("new_bytes", 0),
        written_bytes=noted.get("written_bytes", 0),
        seconds=noted.get("seconds", 0.0),
        bytes_per_second=noted.get("rate", 0.0),
        queue_position=queue_position,
    )
    if not operation.done and noted.get("eta_s") is not None:
        message.eta_seconds = noted["eta_s"]
    return message


def access_binding(message: access.AccessBinding) -> AccessBinding:
    """Return the binding that a message holds."""
    subject = message.subject
    return AccessBinding(subject_type=subject.type, subject_id=subject.id, role_id=message.role_id)


def binding_change(message: access.AccessBindingDelta) -> BindingChange:
    """Return the change that a valid message asks for."""
    return BindingChange(
        binding=access_binding(message.access_binding), added=message.action == access.AccessBindingAction.ADD
    )


def access_binding_message(binding: AccessBinding) -> access.AccessBinding:
    """Return the binding as the API shows it."""
    subject = access.Subject(id=binding.subject_id, type=binding.subject_type)
    return access.AccessBinding(role_id=binding.role_id, subject=subject)


def bindings_result(changes: Iterable[BindingChange]) -> access.AccessBindingsOperationResult:
    """Return the changes as the response of an operation."""
    result = access.AccessBindingsOperationResult()
    for change in changes:
        action = access.AccessBindingAction.ADD if change.added else access.AccessBindingAction.REMOVE
        result.effective_deltas.add(action=action, access_binding=access_binding_message(change.binding))
    return result


MESSAGES_MAX = 512
"""Messages of one kind that are kept together with the rows they were made of."""

shared_operation_message = Memo(operation_message, size=MESSAGES_MAX)
"""The same as `operation_message`, for operations that are polled. What it returns is not to be changed."""


def timestamp(time_us: int) -> timestamp_pb2.Timestamp:
    """Return microseconds since 1970 as a protobuf timestamp."""
    return timestamp_pb2.Timestamp(seconds=time_us // 1_000_000, nanos=time_us % 1_000_000 * 1000)


# Parsing is slow, and there are few kinds of machine. What these return is shared: it is copied, never changed.


@lru_cache(maxsize=1024)
def _os(text: str) -> image_pb2.Os:
    return json_format.Parse(text, image_pb2.Os(), ignore_unknown_fields=True)


@lru_cache(maxsize=1024)
def _hardware(text: str) -> hardware_generation_pb2.HardwareGeneration:
    return json_format.Parse(text, hardware_generation_pb2.HardwareGeneration(), ignore_unknown_fields=True)


def _to_json(message: Message) -> Json:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
