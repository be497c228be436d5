"""yandex.cloud.compute.v1.ImageService."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

import grpc

from dataplane.errors import NotFound
from service import convert, validation
from service._pb.yandex.cloud.access import access_pb2 as access
from service._pb.yandex.cloud.compute.v1 import image_pb2
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as messages
from service._pb.yandex.cloud.compute.v1 import image_service_pb2_grpc as services
from service._pb.yandex.cloud.operation import operation_pb2
from service.auth import Action
from service.bindings import Bindings
from service.faults import shown
from service.images import Images
from service.interceptors import caller
from service.operations.use_cases import Operations
from service.origin import origin_of
from service.visibility import require_folder


class ImageServicer(services.ImageServiceServicer):
    """Images, made from a URL or from other images."""

    def __init__(self, images: Images, bindings: Bindings, operations: Operations) -> None:
        self._images = images
        self._bindings = bindings
        self._operations = operations

    def Get(self, request: messages.GetImageRequest, context: grpc.ServicerContext) -> image_pb2.Image:
        """Return one image."""
        validation.check(request)
        return convert.shared_image_message(self._images.get(request.image_id, caller()))

    def GetLatestByFamily(
        self, request: messages.GetImageLatestByFamilyRequest, context: grpc.ServicerContext
    ) -> image_pb2.Image:
        """Return the newest image of a family that is READY."""
        validation.check(request)
        return convert.image_message(self._images.latest_of_family(request.folder_id, request.family, caller()))

    def List(self, request: messages.ListImagesRequest, context: grpc.ServicerContext) -> messages.ListImagesResponse:
        """Return one page of a folder's images."""
        validation.check(request)
        found, next_page_token = self._images.list(
            request.folder_id,
            caller(),
            page_size=request.page_size,
            page_token=request.page_token,
            filter_text=request.filter,
            order_by=request.order_by,
        )
        return messages.ListImagesResponse(
            images=[convert.image_message(image) for image in found], next_page_token=next_page_token
        )

    def Create(self, request: messages.CreateImageRequest, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Start an import from a URL, or make an image from another one."""
        validation.check(request)
        origin = origin_of(request, caller(), context)
        spec = convert.image_spec(request)
        if request.WhichOneof("source") == "uri":
            return convert.operation_message(self._images.create(spec, request.uri, origin))
        if request.WhichOneof("source") == "image_id":
            return convert.operation_message(self._images.create_from_image(spec, request.image_id, origin))
        require_folder(request.folder_id, origin.caller, Action.IMAGES_CREATE)
        if request.WhichOneof("source") == "disk_id":
            raise NotFound(f"disk {shown(request.disk_id)} is not there")
        raise NotFound(f"snapshot {shown(request.snapshot_id)} is not there")

    def Update(self, request: messages.UpdateImageRequest, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Change the fields of the mask, or all that can be changed."""
        validation.check(request)
        values = {
            "name": request.name,
            "description": request.description,
            "min_disk_size": request.min_disk_size,
            "labels": dict(request.labels),
        }
        origin = origin_of(request, caller(), context)
        operation = self._images.update(request.image_id, values, request.update_mask.paths, origin)
        return convert.operation_message(operation)

    def Delete(self, request: messages.DeleteImageRequest, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Remove an image."""
        validation.check(request)
        operation = self._images.delete(request.image_id, origin_of(request, caller(), context))
        return convert.operation_message(operation)

    def ListOperations(
        self, request: messages.ListImageOperationsRequest, context: grpc.ServicerContext
    ) -> messages.ListImageOperationsResponse:
        """Return one page of an image's operations, newest first."""
        validation.check(request)
        found, next_page_token = self._operations.of_image(
            request.image_id, caller(), page_size=request.page_size, page_token=request.page_token
        )
        return messages.ListImageOperationsResponse(
            operations=[convert.operation_message(operation) for operation in found], next_page_token=next_page_token
        )

    def ListAccessBindings(
        self, request: access.ListAccessBindingsRequest, context: grpc.ServicerContext
    ) -> access.ListAccessBindingsResponse:
        """Return one page of an image's access bindings."""
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
        """Replace an image's access bindings."""
        validation.check(request)
        bindings = [convert.access_binding(binding) for binding in request.access_bindings]
        origin = origin_of(request, caller(), context)
        return convert.operation_message(self._bindings.replace(request.resource_id, bindings, origin))

    def UpdateAccessBindings(
        self, request: access.UpdateAccessBindingsRequest, context: grpc.ServicerContext
    ) -> operation_pb2.Operation:
        """Add and remove access bindings of an image."""
        validation.check(request)
        changes = [convert.binding_change(delta) for delta in request.access_binding_deltas]
        origin = origin_of(request, caller(), context)
        return convert.operation_message(self._bindings.update(request.resource_id, changes, origin))
