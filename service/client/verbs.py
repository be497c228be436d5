"""The actions of `dataplane image`."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from types import FrameType

import grpc

from dataplane.errors import UsageError
from service._pb.dataplane.v1 import image_details_pb2 as details
from service._pb.yandex.cloud.compute.v1 import image_pb2
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.operation import operation_pb2
from service._pb.yandex.cloud.operation import operation_service_pb2 as operations
from service.client import render
from service.client.arguments import TOKEN_VARIABLE
from service.client.connection import CALL_TIMEOUT_S, Connection, Reach, connect, error_of
from service.client.progress_line import ProgressLine

POLL_S = 0.5
_SIZE = re.compile(r"([0-9]{1,18})([KMGT]?)", re.IGNORECASE)


class _Interrupted(BaseException):
    """A signal asked us to stop while we waited."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number


def run(args: argparse.Namespace) -> int:
    """Run one action; return the exit code. Raises DataplaneError."""
    actions = {
        "create": _create,
        "get": _get,
        "list": _list,
        "latest": _latest,
        "update": _update,
        "delete": _delete,
        "operations": _operations,
        "cancel": _cancel,
        "refresh": _refresh,
        "wait": _wait,
    }
    reach = Reach(
        endpoint=args.endpoint,
        ca=args.ca,
        client_cert=args.client_cert,
        client_key=args.client_key,
        plaintext=args.plaintext,
        token=args.token or os.environ.get(TOKEN_VARIABLE),
    )
    with connect(reach) as connection:
        return actions[args.action](connection, args)


def _create(connection: Connection, args: argparse.Namespace) -> int:
    request = images.CreateImageRequest(
        folder_id=args.folder,
        name=args.name,
        description=args.description,
        family=args.family,
        labels=dict(map(_label, args.label)),
        min_disk_size=_size(args.min_disk_size),
        product_ids=args.product,
        pooled=args.pooled,
    )
    sources = {"uri": args.uri, "image_id": args.image, "snapshot_id": args.snapshot, "disk_id": args.disk}
    for field, given in sources.items():
        if given is not None:
            setattr(request, field, given)
    if args.os is not None:
        request.os.type = image_pb2.Os.Type.Value(args.os.upper())
    key = (("idempotency-key", args.key),) if args.key else ()
    operation = connection.images.Create(request, timeout=CALL_TIMEOUT_S, metadata=key)
    if not args.wait and not operation.done:
        render.show(render.operation_fields(operation, _image_id(operation)), as_json=args.json)
        return 0
    return _follow(connection, operation.id, as_json=args.json, cancel_on_interrupt=True)


def _get(connection: Connection, args: argparse.Namespace) -> int:
    image = connection.images.Get(images.GetImageRequest(image_id=args.image_id), timeout=CALL_TIMEOUT_S)
    render.show(render.image_fields(image, _sizes(connection, image)), as_json=args.json)
    return 0


def _list(connection: Connection, args: argparse.Namespace) -> int:
    found: list[image_pb2.Image] = []
    conditions = [args.filter] if args.filter else []
    if args.name is not None:
        quoted = args.name.replace("\\", "\\\\").replace('"', '\\"')
        conditions.append(f'name="{quoted}"')
    request = images.ListImagesRequest(
        folder_id=args.folder, page_size=1000, filter=" AND ".join(conditions), order_by=args.order_by
    )
    while True:
        page = connection.images.List(request, timeout=CALL_TIMEOUT_S)
        found += page.images
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    render.show_images(found, as_json=args.json)
    return 0


def _latest(connection: Connection, args: argparse.Namespace) -> int:
    request = images.GetImageLatestByFamilyRequest(folder_id=args.folder, family=args.family)
    image = connection.images.GetLatestByFamily(request, timeout=CALL_TIMEOUT_S)
    render.show(render.image_fields(image, _sizes(connection, image)), as_json=args.json)
    return 0


def _update(connection: Connection, args: argparse.Namespace) -> int:
    request = images.UpdateImageRequest(image_id=args.image_id)
    paths = request.update_mask.paths
    if args.name is not None:
        request.name = args.name
        paths.append("name")
    if args.description is not None:
        request.description = args.description
        paths.append("description")
    if args.label or args.no_labels:
        request.labels.update(map(_label, args.label or ()))
        paths.append("labels")
    if args.min_disk_size is not None:
        request.min_disk_size = _size(args.min_disk_size)
        paths.append("min_disk_size")
    if not paths:
        raise UsageError("nothing to change: give --name, --description, --label, --no-labels or --min-disk-size")
    if args.label and args.no_labels:
        raise UsageError("--label and --no-labels exclude each other")
    operation = connection.images.Update(request, timeout=CALL_TIMEOUT_S)
    return _finish(connection, operation, as_json=args.json)


def _operations(connection: Connection, args: argparse.Namespace) -> int:
    found: list[operation_pb2.Operation] = []
    request = images.ListImageOperationsRequest(image_id=args.image_id, page_size=1000)
    while True:
        page = connection.images.ListOperations(request, timeout=CALL_TIMEOUT_S)
        found += page.operations
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    render.show_operations(found, args.image_id, as_json=args.json)
    return 0


def _refresh(connection: Connection, args: argparse.Namespace) -> int:
    request = details.ReplaceSourceRequest(operation_id=args.operation_id, uri=args.uri)
    operation = connection.details.ReplaceSource(request, timeout=CALL_TIMEOUT_S)
    render.show(render.operation_fields(operation, _image_id(operation)), as_json=args.json)
    return 0


def _delete(connection: Connection, args: argparse.Namespace) -> int:
    operation = connection.images.Delete(images.DeleteImageRequest(image_id=args.image_id), timeout=CALL_TIMEOUT_S)
    return _finish(connection, operation, as_json=args.json)


def _cancel(connection: Connection, args: argparse.Namespace) -> int:
    request = operations.CancelOperationRequest(operation_id=args.operation_id)
    operation = connection.operations.Cancel(request, timeout=CALL_TIMEOUT_S)
    render.show(render.operation_fields(operation, _image_id(operation)), as_json=args.json)
    return 0


def _wait(connection: Connection, args: argparse.Namespace) -> int:
    return _follow(connection, args.operation_id, as_json=args.json, cancel_on_interrupt=False)


def _follow(connection: Connection, operation_id: str, *, as_json: bool, cancel_on_interrupt: bool) -> int:
    """Wait for the end of an operation, showing progress; one that we started is cancelled when we are interrupted."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise _Interrupted(number)

    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _watch(connection, operation_id)
    except _Interrupted as interrupted:
        if cancel_on_interrupt:
            stop = operations.CancelOperationRequest(operation_id=operation_id)
            connection.operations.Cancel(stop, timeout=CALL_TIMEOUT_S)
        fate = "cancelled" if cancel_on_interrupt else f"operation {operation_id} goes on"
        sys.stderr.write(f"dataplane: interrupted: {fate}\n")
        return interrupted.exit_code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    request = operations.GetOperationRequest(operation_id=operation_id)
    return _finish(connection, connection.operations.Get(request, timeout=CALL_TIMEOUT_S), as_json=as_json)


def _watch(connection: Connection, operation_id: str) -> None:
    """Return when the operation is done. A server that is busy with other watchers, or restarts, is polled."""
    with ProgressLine() as line:
        while True:
            try:
                watch = details.WatchProgressRequest(operation_id=operation_id)
                for progress in connection.details.WatchProgress(watch):
                    line.draw(progress)
                    if progress.done:
                        return
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            poll = details.GetProgressRequest(operation_id=operation_id)
            progress = connection.details.GetProgress(poll, timeout=CALL_TIMEOUT_S, wait_for_ready=True)
            line.draw(progress)
            if progress.done:
                return
            time.sleep(POLL_S)


def _finish(connection: Connection, operation: operation_pb2.Operation, *, as_json: bool) -> int:
    """Show the result of a finished operation. Raises the error that ended it."""
    if operation.HasField("error"):
        raise error_of(operation.error)
    image = image_pb2.Image()
    if operation.response.Unpack(image):
        render.show(render.image_fields(image, _sizes(connection, image)), as_json=as_json)
    else:
        render.show(render.operation_fields(operation, _image_id(operation)), as_json=as_json)
    return 0


def _sizes(connection: Connection, image: image_pb2.Image) -> details.ImageSizes | None:
    if image.status != image_pb2.Image.READY:
        return None
    return connection.details.GetSizes(details.GetSizesRequest(image_id=image.id), timeout=CALL_TIMEOUT_S)


def _image_id(operation: operation_pb2.Operation) -> str:
    for kind in (images.CreateImageMetadata, images.UpdateImageMetadata, images.DeleteImageMetadata):
        metadata = kind()
        if operation.metadata.Unpack(metadata):
            return metadata.image_id
    return ""


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise UsageError(f"--label {text!r} is not KEY=VALUE")
    return key, value


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a size: give bytes, or a number with K, M, G or T")
    size = int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ")
    if size >= 1 << 63:
        raise UsageError(f"{text!r} is larger than any disk")
    return size
