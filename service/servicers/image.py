"""yandex.cloud.compute.v1.ImageService; methods it does not define answer UNIMPLEMENTED."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

import grpc

from dataplane.errors import NotFound
from service import convert, validation
from service._pb.yandex.cloud.compute.v1 import image_pb2
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as messages
from service._pb.yandex.cloud.compute.v1 import image_service_pb2_grpc as services
from service._pb.yandex.cloud.operation import operation_pb2
from service.auth import Action
from service.faults import NotOffered, shown
from service.images import Images
from service.interceptors import caller
from service.model import Image


class ImageServicer(services.ImageServiceServicer):
    """Images, made from a URL."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def Get(self, request: messages.GetImageRequest, context: grpc.ServicerContext) -> image_pb2.Image:
        """Return one image."""
        validation.check(request)
        return convert.image_message(self._permitted(request.image_id, Action.IMAGES_GET))

    def List(self, request: messages.ListImagesRequest, context: grpc.ServicerContext) -> messages.ListImagesResponse:
        """Return one page of a folder's images."""
        validation.check(request)
        caller().require(request.folder_id, Action.IMAGES_LIST, what=f"folder {shown(request.folder_id)}")
        found, next_page_token = self._images.list(
            request.folder_id,
            page_size=request.page_size,
            page_token=request.page_token,
            filter_text=request.filter,
            order_by=request.order_by,
        )
        return messages.ListImagesResponse(
            images=[convert.image_message(image) for image in found], next_page_token=next_page_token
        )

    def Create(self, request: messages.CreateImageRequest, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Start an import from a URL."""
        validation.check(request)
        caller().require(request.folder_id, Action.IMAGES_CREATE, what=f"folder {shown(request.folder_id)}")
        source = request.WhichOneof("source")
        if source == "disk_id":
            raise NotFound(f"disk {shown(request.disk_id)} is not there")
        if source == "snapshot_id":
            raise NotFound(f"snapshot {shown(request.snapshot_id)} is not there")
        if source != "uri":
            raise NotOffered("making an image from image_id is not offered by this server: give a uri")
        spec = convert.image_spec(request)
        operation = self._images.create(spec, request.uri, created_by=caller().subject_id)
        return convert.operation_message(operation)

    def Delete(self, request: messages.DeleteImageRequest, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Remove an image."""
        validation.check(request)
        self._permitted(request.image_id, Action.IMAGES_DELETE)
        operation = self._images.delete(request.image_id, created_by=caller().subject_id)
        return convert.operation_message(operation)

    def _permitted(self, image_id: str, action: Action) -> Image:
        image = self._images.get(image_id)
        caller().require(image.spec.folder_id, action, what=f"image {shown(image_id)}")
        return image
