"""yandex.cloud.compute.v1.DiskService."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

from typing import Any

import grpc

from service import convert, validation
from service._pb.yandex.cloud.compute.v1 import disk_service_pb2 as messages
from service._pb.yandex.cloud.compute.v1 import disk_service_pb2_grpc as services
from service._pb.yandex.cloud.operation import operation_pb2
from service.bindings import Bindings
from service.disks import Disks
from service.interceptors import caller
from service.kinds import DISK
from service.model import DiskSpec
from service.operations.use_cases import Operations
from service.origin import origin_of
from service.servicers.resource import ResourceServicer


class DiskServicer(ResourceServicer[DiskSpec], services.DiskServiceServicer):
    """Disks, made empty or from images and snapshots."""

    kind = DISK
    list_response = messages.ListDisksResponse
    list_operations_response = messages.ListDiskOperationsResponse

    def __init__(self, disks: Disks, bindings: Bindings, operations: Operations) -> None:
        super().__init__(disks, bindings, operations)
        self._disks = disks

    def Create(self, request: messages.CreateDiskRequest, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Make a disk."""
        validation.check(request)
        operation = self._disks.create(
            convert.disk_spec(request),
            origin_of(request, caller(), context),
            key_id=request.kms_key_id,
            schedule_ids=request.snapshot_schedule_ids,
        )
        return convert.operation_message(operation)

    def Move(self, request: messages.MoveDiskRequest, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Refuse: the content of a disk is stored under the keys of its folder."""
        validation.check(request)
        self._disks.refuse_move(
            request.disk_id,
            caller(),
            "disks do not move between folders: make a snapshot, and from it a disk in the other folder",
        )

    def Relocate(self, request: messages.RelocateDiskRequest, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Refuse: zones are names only here."""
        validation.check(request)
        self._disks.refuse_move(
            request.disk_id,
            caller(),
            "disks do not move between zones: make a snapshot, and from it a disk in the other zone",
        )

    def ListSnapshotSchedules(
        self, request: messages.ListDiskSnapshotSchedulesRequest, context: grpc.ServicerContext
    ) -> messages.ListDiskSnapshotSchedulesResponse:
        """Return an empty page: there are no schedules."""
        validation.check(request)
        self._disks.get(request.disk_id, caller())
        return messages.ListDiskSnapshotSchedulesResponse()

    def _values(self, request: Any) -> dict[str, Any]:
        return super()._values(request) | {"disk_placement_policy": convert.disk_placement_policy(request)}
