"""yandex.cloud.operation.OperationService."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

import grpc

from service import convert, validation
from service._pb.yandex.cloud.operation import operation_pb2
from service._pb.yandex.cloud.operation import operation_service_pb2 as messages
from service._pb.yandex.cloud.operation import operation_service_pb2_grpc as services
from service.interceptors import caller
from service.operations.use_cases import Operations


class OperationServicer(services.OperationServiceServicer):
    """Operations, followed and cancelled."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def Get(self, request: messages.GetOperationRequest, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Return the operation as it is now."""
        validation.check(request)
        return convert.shared_operation_message(self._operations.get(request.operation_id, caller()))

    def Cancel(
        self, request: messages.CancelOperationRequest, context: grpc.ServicerContext
    ) -> operation_pb2.Operation:
        """Ask for the operation to stop; a finished one is returned as it is."""
        validation.check(request)
        return convert.operation_message(self._operations.cancel(request.operation_id, caller()))
