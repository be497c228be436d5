"""yandex.cloud.compute.v1.ImageService."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

import grpc

from service import convert, validation
from service._pb.yandex.cloud.compute.v1 import image_pb2
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as messages
from service._pb.yandex.cloud.compute.v1 import image_service_pb2_grpc as services
from service._pb.yandex.cloud.operation import operation_pb2
from service.bindings import Bindings
from service.images import Images
from service.interceptors import caller
from service.kinds import IMAGE, SNAPSHOT
from service.model import ImageSpec
from service.operations.use_cases import Operations
from service.origin import origin_of
from service.servicers.resource import ResourceServicer


class ImageServicer(ResourceServicer[ImageSpec], services.ImageServiceServicer):
    """Images, made from a URL, from other images, from snapshots and from disks."""

    kind = IMAGE
    list_response = messages.ListImagesResponse
    list_operations_response = messages.ListImageOperationsResponse

    def __init__(self, images: Images, bindings: Bindings, operations: Operations) -> None:
        super().__init__(images, bindings, operations)
        self._images = images

    def GetLatestByFamily(
        self, request: messages.GetImageLatestByFamilyRequest, context: grpc.ServicerContext
    ) -> image_pb2.Image:
        """Return the newest image of a family that is READY."""
        validation.check(request)
        return convert.image_message(self._images.latest_of_family(request.folder_id, request.family, caller()))

    def Create(self, request: messages.CreateImageRequest, context: grpc.ServicerContext) -> operation_pb2.Operation:
        """Start an import from a URL, or make an image from what is here already."""
        validation.check(request)
        origin = origin_of(request, caller(), context)
        spec = convert.image_spec(request)
        match request.WhichOneof("source"):
            case "uri":
                operation = self._images.create(spec, request.uri, origin)
            case "image_id":
                operation = self._images.create_from(IMAGE, spec, request.image_id, origin)
            case "snapshot_id":
                operation = self._images.create_from(SNAPSHOT, spec, request.snapshot_id, origin)
            case _:
                operation = self._images.create_from_disk(spec, request.disk_id, origin)
        return convert.operation_message(operation)
