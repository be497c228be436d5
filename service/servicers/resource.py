"""The calls that images, disks and snapshots have in common: check the request, call the use case, convert."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

from typing import Any, Generic

import grpc
from google.protobuf.message import Message

from service import convert, validation
from service._pb.yandex.cloud.access import access_pb2 as access
from service._pb.yandex.cloud.operation import operation_pb2
from service.bindings import Bindings
from service.interceptors import caller
from service.kinds import Kind
from service.memo import Memo
from service.model import S
from service.operations.use_cases import Operations
from service.origin import origin_of
from service.resources import Resources


class ResourceServicer(Generic[S]):
    """What comes before the generated base of a service; requests and answers are named after the kind of resource."""

    kind: Kind[S]
    list_response: type[Message]
    list_operations_response: type[Message]

    def __init__(self, resources: Resources[S], bindings: Bindings, operations: Operations) -> None:
        self._all = resources
        self._bindings = bindings
        self._operations = operations
        self._shared_message = Memo(self.kind.message, size=convert.MESSAGES_MAX)  # read again and again, never changed

    def Get(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return one."""
        validation.check(request)
        return self._shared_message(self._all.get(self._id(request), caller()))

    def List(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return one page of what a folder has."""
        validation.check(request)
        found, next_page_token = self._all.list(
            request.folder_id,
            caller(),
            page_size=request.page_size,
            page_token=request.page_token,
            filter_text=request.filter,
            order_by=request.order_by,
        )
        page = {f"{self.kind.word}s": [self.kind.message(resource) for resource in found]}
        return self.list_response(**page, next_page_token=next_page_token)

    def Update(self, request: Any, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Change the fields of the mask, or all that can be changed."""
        validation.check(request)
        origin = origin_of(request, caller(), context)
        operation = self._all.update(self._id(request), self._values(request), request.update_mask.paths, origin)
        return convert.operation_message(operation)

    def Delete(self, request: Any, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Remove one."""
        validation.check(request)
        return convert.operation_message(self._all.delete(self._id(request), origin_of(request, caller(), context)))

    def ListOperations(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return one page of the operations of one, newest first."""
        validation.check(request)
        found, next_page_token = self._operations.of_resource(
            self.kind, self._id(request), caller(), page_size=request.page_size, page_token=request.page_token
        )
        page = {"operations": [convert.operation_message(operation) for operation in found]}
        return self.list_operations_response(**page, next_page_token=next_page_token)

    def ListAccessBindings(
        self, request: access.ListAccessBindingsRequest, context: grpc.ServicerContext
    ) -> access.ListAccessBindingsResponse:
        """Return one page of the access bindings of one."""
        validation.check(request)
        found, next_page_token = self._bindings.page(
            request.resource_id, caller(), page_size=request.page_size, page_token=request.page_token
        )
        return access.ListAccessBindingsResponse(
            access_bindings=[convert.access_binding_message(binding) for binding in found],
            next_page_token=next_page_token,
        )

    def SetAccessBindings(
        self, request: access.SetAccessBindingsRequest, context: grpc.ServicerContext
    ) -> operation_pb2.Operation:
        """Replace the access bindings of one."""
        validation.check(request)
        bindings = [convert.access_binding(binding) for binding in request.access_bindings]
        origin = origin_of(request, caller(), context)
        return convert.operation_message(self._bindings.replace(request.resource_id, bindings, origin))

    def UpdateAccessBindings(
        self, request: access.UpdateAccessBindingsRequest, context: grpc.ServicerContext
    ) -> operation_pb2.Operation:
        """Add and remove access bindings of one."""
        validation.check(request)
        changes = [convert.binding_change(delta) for delta in request.access_binding_deltas]
        origin = origin_of(request, caller(), context)
        return convert.operation_message(self._bindings.update(request.resource_id, changes, origin))

    def _id(self, request: Any) -> str:
        """Return the id that a request about one of the kind names."""
        found: str = getattr(request, f"{self.kind.word}_id")
        return found

    def _values(self, request: Any) -> dict[str, Any]:
        """Return what an update gives to the fields that can be updated."""
        return {name: getattr(request, name) for name in self.kind.updatable} | {"labels": dict(request.labels)}
