"""A channel to a server, with its token and a deadline on every call; gRPC errors become the library's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from dataplane import errors
from service._pb.dataplane.v1 import image_details_pb2_grpc
from service._pb.yandex.cloud.compute.v1 import image_service_pb2_grpc
from service._pb.yandex.cloud.operation import operation_service_pb2_grpc
from service.config import Address
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where a server is and how it is spoken to. `ca`, `client_cert` and `client_key` name files; all may be None."""

    endpoint: str
    ca: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    plaintext: bool = False
    token: str | None = None

    def __post_init__(self) -> None:
        if (self.client_cert is None) != (self.client_key is None):
            raise errors.UsageError("--client-cert and --client-key belong together: give both")
        if not self.plaintext:
            return
        if self.ca is not None or self.client_cert is not None:
            raise errors.UsageError("--plaintext has no use for certificates: leave --ca and --client-cert out")
        if self.token is not None and not Address.parse(self.endpoint).is_loopback():
            raise errors.UsageError(
                f"--plaintext would show the token to everybody on the way to {self.endpoint}: use TLS, or a tunnel"
            )

    def channel(self) -> grpc.Channel:
        """Return a channel. Raises UsageError when a file cannot be read."""
        if self.plaintext:
            channel = grpc.insecure_channel(self.endpoint)
            return grpc.intercept_channel(channel, _Bearer(self.token)) if self.token else channel
        credentials = grpc.ssl_channel_credentials(
            _content("--ca", self.ca),
            _content("--client-key", self.client_key),
            _content("--client-cert", self.client_cert),
        )
        if self.token:
            call = grpc.access_token_call_credentials(self.token)
            credentials = grpc.composite_channel_credentials(credentials, call)
        return grpc.secure_channel(self.endpoint, credentials)


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Adds the token to calls without TLS, for which gRPC has no credentials."""

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Make the call."""
        return continuation(self._with_token(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Begin the stream."""
        return continuation(self._with_token(client_call_details), request)

    def _with_token(self, details: Any) -> Any:
        return details._replace(metadata=(*(details.metadata or ()), self._header))


@contextmanager
def connect(reach: Reach) -> Iterator[Connection]:
    """Give a connection; inside the block an RpcError becomes an error of the library's tree.

    Raises UsageError when a file that `reach` names cannot be read.
    """
    with reach.channel() as channel:
        try:
            yield Connection(channel)
        except grpc.RpcError as error:
            raise _from_rpc(error, reach.endpoint) from error


def _content(flag: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise errors.UsageError(f"{flag} {path} cannot be read: {error.strerror}") from error


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
