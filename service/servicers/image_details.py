"""dataplane.v1.ImageDetailsService: every size of an image, and live progress of an operation."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc

from service import convert, validation
from service._pb.dataplane.v1 import image_details_pb2 as messages
from service._pb.dataplane.v1 import image_details_pb2_grpc as services
from service.auth import Action
from service.faults import Busy, FailedPrecondition, shown
from service.images import Images
from service.interceptors import caller
from service.model import Operation
from service.operations.use_cases import Operations

WATCHERS_MAX = 8
"""Streams at once: each holds a thread of the server."""

WATCH_PAUSE_S = 0.2


class ImageDetailsServicer(services.ImageDetailsServiceServicer):
    """What the public API has no place for."""

    def __init__(self, images: Images, operations: Operations, draining: threading.Event) -> None:
        self._images = images
        self._operations = operations
        self._draining = draining
        self._watchers = threading.BoundedSemaphore(WATCHERS_MAX)

    def GetSizes(self, request: messages.GetSizesRequest, context: grpc.ServicerContext) -> messages.ImageSizes:
        """Return the sizes of a READY image."""
        validation.check(request)
        image = self._images.get(request.image_id)
        caller().require(image.spec.folder_id, Action.IMAGES_GET, what=f"image {shown(image.id)}")
        if image.content is None:
            raise FailedPrecondition(f"image {shown(image.id)} is being created: its sizes are known when it is READY")
        return convert.sizes_message(image, image.content)

    def GetProgress(self, request: messages.GetProgressRequest, context: grpc.ServicerContext) -> messages.Progress:
        """Return how far an operation is."""
        validation.check(request)
        return convert.progress_message(self._permitted(request.operation_id))

    def WatchProgress(
        self, request: messages.WatchProgressRequest, context: grpc.ServicerContext
    ) -> Iterator[messages.Progress]:
        """Return how far an operation is whenever that changes, until it is done."""
        validation.check(request)
        self._permitted(request.operation_id)
        if not self._watchers.acquire(blocking=False):
            raise Busy(f"{WATCHERS_MAX} callers watch already: use GetProgress, or try again")
        try:
            last: messages.Progress | None = None
            while context.is_active():
                progress = convert.progress_message(self._operations.get(request.operation_id))
                if progress != last:
                    yield progress
                    last = progress
                if progress.done:
                    return
                if self._draining.wait(WATCH_PAUSE_S):
                    raise Busy("the server is going away: try again")
        finally:
            self._watchers.release()

    def _permitted(self, operation_id: str) -> Operation:
        operation = self._operations.get(operation_id)
        caller().require(operation.folder_id, Action.OPERATIONS_GET, what=f"operation {shown(operation_id)}")
        return operation
