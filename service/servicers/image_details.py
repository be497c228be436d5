"""dataplane.v1.ImageDetailsService: every size of an image, and live progress of an operation."""

# ruff: noqa: N802 - gRPC names methods after those of the service
from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from service import convert, validation
from service._pb.dataplane.v1 import image_details_pb2 as messages
from service._pb.dataplane.v1 import image_details_pb2_grpc as services
from service._pb.yandex.cloud.operation import operation_pb2
from service.faults import Busy, FailedPrecondition, shown
from service.images import Images
from service.interceptors import caller
from service.model import Operation, Resource
from service.operations.use_cases import Operations
from service.snapshots import Snapshots

WATCHERS_MAX = 8
"""Streams at once: each holds a thread of the server."""

WATCH_PAUSE_S = 0.2
LOOK_S = 15.0
"""How long ReplaceSource waits for a worker to open the URL before it answers without a verdict."""


class ImageDetailsServicer(services.ImageDetailsServiceServicer):
    """What the public API has no place for."""

    def __init__(self, images: Images, snapshots: Snapshots, operations: Operations, draining: threading.Event) -> None:
        self._images = images
        self._snapshots = snapshots
        self._operations = operations
        self._draining = draining
        self._watchers = threading.BoundedSemaphore(WATCHERS_MAX)

    def GetSizes(self, request: messages.GetSizesRequest, context: grpc.ServicerContext) -> messages.ImageSizes:
        """Return the sizes of a READY image or snapshot."""
        validation.check(request)
        name = request.WhichOneof("resource") or "image_id"
        resource_id = getattr(request, name)
        found: Resource[Any] = (self._images if name == "image_id" else self._snapshots).get(resource_id, caller())
        if found.content is None:
            what = f"{name.removesuffix('_id')} {shown(resource_id)}"
            raise FailedPrecondition(f"{what} is being created: its sizes are known when it is READY")
        return convert.sizes_message(found.content, **{name: resource_id})

    def GetProgress(self, request: messages.GetProgressRequest, context: grpc.ServicerContext) -> messages.Progress:
        """Return how far an operation is."""
        validation.check(request)
        return self._progress(self._operations.get(request.operation_id, caller()))

    def WatchProgress(
        self, request: messages.WatchProgressRequest, context: grpc.ServicerContext
    ) -> Iterator[messages.Progress]:
        """Return how far an operation is whenever that changes, until it is done."""
        validation.check(request)
        who = caller()
        self._operations.get(request.operation_id, who)
        with self._watching():
            last: messages.Progress | None = None
            while context.is_active():
                progress = self._progress(self._operations.get(request.operation_id, who))
                if progress != last:
                    yield progress
                    last = progress
                if progress.done:
                    return
                if self._draining.wait(WATCH_PAUSE_S):
                    raise Busy("the server is going away: try again")

    def ReplaceSource(
        self, request: messages.ReplaceSourceRequest, context: grpc.ServicerContext
    ) -> operation_pb2.Operation:
        """Give an unfinished import a fresh URL; answer when a worker has looked where it leads."""
        validation.check(request)
        who = caller()
        with self._watching():
            operation = self._operations.replace_source(request.operation_id, request.uri, who)
            deadline_s = time.monotonic() + LOOK_S
            while self._is_looked_at(operation) and context.is_active() and time.monotonic() < deadline_s:
                if self._draining.wait(WATCH_PAUSE_S):
                    break
                operation = self._operations.get(request.operation_id, who)
        if operation.source_refusal:
            raise FailedPrecondition(
                f"the URL was not taken: {operation.source_refusal}", subject=f"operation:{operation.id}"
            )
        return convert.operation_message(operation)

    @staticmethod
    def _is_looked_at(operation: Operation) -> bool:
        """Say whether somebody is about to judge the fresh URL; one that waits for its first worker may wait long."""
        return not operation.done and operation.fresh_source is not None and operation.source_version is not None

    def _progress(self, operation: Operation) -> messages.Progress:
        return convert.progress_message(operation, queue_position=self._operations.queue_position(operation))

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Bound the calls that hold a thread of the server for long."""
        if not self._watchers.acquire(blocking=False):
            raise Busy(f"{WATCHERS_MAX} callers wait already: use GetProgress, or try again")
        try:
            yield
        finally:
            self._watchers.release()
