"""A TLS channel to a server, with its token and a deadline on every call; gRPC errors become the library's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from dataplane import errors
from service._pb.dataplane.v1 import image_details_pb2_grpc
from service._pb.yandex.cloud.compute.v1 import image_service_pb2_grpc
from service._pb.yandex.cloud.operation import operation_service_pb2_grpc
from service.client.arguments import TOKEN_VARIABLE
from service.faults import Busy, FailedPrecondition, NotOffered, PermissionDenied, Unauthenticated

CALL_TIMEOUT_S = 30.0

_KINDS: dict[int, type[errors.DataplaneError]] = {
    code_pb2.CANCELLED: errors.Cancelled,
    code_pb2.INVALID_ARGUMENT: errors.UsageError,
    code_pb2.NOT_FOUND: errors.NotFound,
    code_pb2.ALREADY_EXISTS: errors.AlreadyExists,
    code_pb2.PERMISSION_DENIED: PermissionDenied,
    code_pb2.FAILED_PRECONDITION: FailedPrecondition,
    code_pb2.RESOURCE_EXHAUSTED: errors.NoSpace,
    code_pb2.UNIMPLEMENTED: NotOffered,
    code_pb2.UNAVAILABLE: Busy,
    code_pb2.DATA_LOSS: errors.Corrupt,
    code_pb2.UNAUTHENTICATED: Unauthenticated,
}


class Connection:
    """The stubs of one server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.images = image_service_pb2_grpc.ImageServiceStub(channel)
        self.operations = operation_service_pb2_grpc.OperationServiceStub(channel)
        self.details = image_details_pb2_grpc.ImageDetailsServiceStub(channel)


@contextmanager
def connect(endpoint: str, ca: str | None, token: str | None) -> Iterator[Connection]:
    """Give a connection to `endpoint`, whose certificate must be signed by the authority in file `ca`.

    Inside the block an RpcError becomes an error of the library's tree. Raises UsageError when `ca` cannot be read.
    """
    try:
        root = Path(ca).read_bytes() if ca else None
    except OSError as error:
        raise errors.UsageError(f"--ca {ca} cannot be read: {error.strerror}") from error
    bearer = token or os.environ.get(TOKEN_VARIABLE)
    credentials = grpc.ssl_channel_credentials(root)
    if bearer:
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(bearer))
    with grpc.secure_channel(endpoint, credentials) as channel:
        try:
            yield Connection(channel)
        except grpc.RpcError as error:
            raise _from_rpc(error, endpoint) from error


def error_of(status: status_pb2.Status) -> errors.DataplaneError:
    """Return the error that ended an operation; SourceUnavailable when its source is to blame."""
    for detail in status.details:
        if _blames(detail, "uri"):
            return errors.SourceUnavailable(status.message)
    return _KINDS.get(status.code, errors.DataplaneError)(status.message)


def _blames(detail: any_pb2.Any, field: str) -> bool:
    request = error_details_pb2.BadRequest()
    return bool(detail.Unpack(request)) and any(wrong.field == field for wrong in request.field_violations)


def _from_rpc(error: Any, endpoint: str) -> errors.DataplaneError:
    code: grpc.StatusCode = error.code()
    kind = _KINDS.get(code.value[0], errors.DataplaneError)
    return kind(f"{endpoint}: {error.details() or code.name}")
