"""Exception to gRPC status: the one table, and the form errors take in a call and in an operation."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from sqlalchemy.exc import SQLAlchemyError

from dataplane import errors
from service import faults
from service.redact import one_line

DETAILS_SIZE_MAX = 4000
"""Bytes of violations in one answer: they travel in a header, of which peers accept 8 KiB in all."""

CODES: tuple[tuple[type[BaseException], int], ...] = (  # the first that fits decides
    (faults.InvalidRequest, code_pb2.INVALID_ARGUMENT),
    (faults.Unauthenticated, code_pb2.UNAUTHENTICATED),
    (faults.PermissionDenied, code_pb2.PERMISSION_DENIED),
    (faults.QuotaExceeded, code_pb2.RESOURCE_EXHAUSTED),
    (faults.FailedPrecondition, code_pb2.FAILED_PRECONDITION),
    (faults.NotOffered, code_pb2.UNIMPLEMENTED),
    (faults.Busy, code_pb2.UNAVAILABLE),
    (faults.LeaseLost, code_pb2.ABORTED),
    (errors.Cancelled, code_pb2.CANCELLED),
    (errors.UsageError, code_pb2.INVALID_ARGUMENT),
    (errors.NotFound, code_pb2.NOT_FOUND),
    (errors.AlreadyExists, code_pb2.ALREADY_EXISTS),
    (errors.SourceError, code_pb2.INVALID_ARGUMENT),
    (errors.Corrupt, code_pb2.DATA_LOSS),
    (errors.NoSpace, code_pb2.RESOURCE_EXHAUSTED),
    (errors.LeaseLost, code_pb2.ABORTED),
    (errors.StoreLocked, code_pb2.UNAVAILABLE),
    (errors.StoreError, code_pb2.INTERNAL),
    (errors.IoFailed, code_pb2.INTERNAL),
    (NotImplementedError, code_pb2.UNIMPLEMENTED),  # what a generated servicer raises for a method it does not have
    (SQLAlchemyError, code_pb2.INTERNAL),
    (MemoryError, code_pb2.RESOURCE_EXHAUSTED),
)

_GRPC_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def code_of(error: BaseException) -> int:
    """Return the number of the gRPC code for `error`; INTERNAL for what nobody foresaw."""
    return next((code for kind, code in CODES if isinstance(error, kind)), code_pb2.INTERNAL)


def is_foreseen(error: BaseException) -> bool:
    """Say whether the text of `error` was written for users."""
    return isinstance(error, errors.DataplaneError)


def status_of(error: BaseException, *, trace_id: str) -> status_pb2.Status:
    """Return `error` as users see it: one line without secrets. `trace_id` finds an unforeseen one in the log."""
    code = code_of(error)
    if is_foreseen(error):
        message = one_line(str(error)) or type(error).__name__
    elif isinstance(error, NotImplementedError):
        message = "this method is not offered by this server"
    elif isinstance(error, MemoryError):
        message = "the work needs more memory than one worker may take: --worker-memory of the server bounds it"
    else:
        message = f"internal error: the server's log has the particulars under {trace_id}"
    status = status_pb2.Status(code=code, message=message)
    detail = _detail(error, message)
    if detail is not None:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def grpc_code(code: int) -> grpc.StatusCode:
    """Return gRPC's own object for the number of a code."""
    return _GRPC_CODES.get(code, grpc.StatusCode.INTERNAL)


def _detail(error: BaseException, message: str) -> Message | None:
    """Return what clients can read besides the line of text, when there is something."""
    if isinstance(error, faults.QuotaExceeded):
        quota = error_details_pb2.QuotaFailure.Violation(
            subject=f"folder:{one_line(error.folder_id)}/{error.quota}", description=message
        )
        failure: Message = error_details_pb2.QuotaFailure(violations=[quota])
        return failure
    if isinstance(error, faults.FailedPrecondition) and error.subject:
        state = error_details_pb2.PreconditionFailure.Violation(
            type="STATE", subject=one_line(error.subject), description=message
        )
        unmet: Message = error_details_pb2.PreconditionFailure(violations=[state])
        return unmet
    return _bad_request(error, message)


def _bad_request(error: BaseException, message: str) -> error_details_pb2.BadRequest | None:
    """Return the wrong fields; a bad source is a wrong `uri`."""
    if isinstance(error, faults.InvalidRequest):
        found = error.violations
    elif isinstance(error, errors.SourceError):
        found = (faults.Violation("uri", message),)
    else:
        return None
    request = error_details_pb2.BadRequest()
    for index, violation in enumerate(found):
        request.field_violations.add(field=violation.field, description=one_line(violation.description))
        if request.ByteSize() > DETAILS_SIZE_MAX and index + 1 < len(found):
            request.field_violations.add(field="…", description=f"{len(found) - index - 1} more violations")
            break
    return request
