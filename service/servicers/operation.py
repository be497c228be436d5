"""yandex.cloud.operation.OperationService."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

import grpc

from service import convert, validation
from service._pb.yandex.cloud.operation import operation_pb2
from service._pb.yandex.cloud.operation import operation_service_pb2 as messages
from service._pb.yandex.cloud.operation import operation_service_pb2_grpc as services
from service.auth import Action
from service.faults import shown
from service.interceptors import caller
from service.model import Operation
from service.operations.use_cases import Operations


class OperationServicer(services.OperationServiceServicer):
    """Operations, followed and cancelled."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def Get(self, request: messages.GetOperationRequest, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Return the operation as it is now."""
        validation.check(request)
        return convert.operation_message(self._permitted(request.operation_id, Action.OPERATIONS_GET))

    def Cancel(
        self, request: messages.CancelOperationRequest, context: grpc.ServicerContext
    ) -> operation_pb2.Operation:
        """Ask for the operation to stop; a finished one is returned as it is."""
        validation.check(request)
        self._permitted(request.operation_id, Action.OPERATIONS_CANCEL)
        return convert.operation_message(self._operations.cancel(request.operation_id))

    def _permitted(self, operation_id: str, action: Action) -> Operation:
        operation = self._operations.get(operation_id)
        caller().require(operation.folder_id, action, what=f"operation {shown(operation_id)}")
        return operation
