"""yandex.cloud.compute.v1.SnapshotService."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

import grpc

from service import convert, validation
from service._pb.yandex.cloud.compute.v1 import snapshot_service_pb2 as messages
from service._pb.yandex.cloud.compute.v1 import snapshot_service_pb2_grpc as services
from service._pb.yandex.cloud.operation import operation_pb2
from service.bindings import Bindings
from service.interceptors import caller
from service.kinds import SNAPSHOT
from service.model import SnapshotSpec
from service.operations.use_cases import Operations
from service.origin import origin_of
from service.servicers.resource import ResourceServicer
from service.snapshots import Snapshots


class SnapshotServicer(ResourceServicer[SnapshotSpec], services.SnapshotServiceServicer):
    """Snapshots of disks."""

    kind = SNAPSHOT
    list_response = messages.ListSnapshotsResponse
    list_operations_response = messages.ListSnapshotOperationsResponse

    def __init__(self, snapshots: Snapshots, bindings: Bindings, operations: Operations) -> None:
        super().__init__(snapshots, bindings, operations)
        self._snapshots = snapshots

    def Create(self, request: messages.CreateSnapshotRequest, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Start to take the content of a disk."""
        validation.check(request)
        origin = origin_of(request, caller(), context)
        return convert.operation_message(self._snapshots.create(convert.snapshot_spec(request), origin))
