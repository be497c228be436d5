"""What every call goes through: a request id, the check of its caller, the mapping of errors, a line in the log."""

from __future__ import annotations

import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

import grpc

from service import status
from service._pb.yandex.cloud.operation import operation_pb2
from service.auth import ANONYMOUS, OPEN_SERVICES, Authenticator, Caller
from service.faults import InvalidRequest, Violation
from service.log import get_logger

log = get_logger(__name__)
_call = threading.local()  # each call runs in one thread of the server's pool from beginning to end

HEADERS: dict[str, tuple[tuple[str, str], ...]] = {
    # Whole seconds until the next poll. Who has seen the end polls no more, so that one value serves all answers.
    "yandex.cloud.operation.OperationService/Get": (("x-operation-poll-interval", "1"),),
}
"""What the answers of a method carry besides the ids of the call."""


_CLIENT_IDS = {"x-client-request-id": "client_request_id", "x-client-trace-id": "client_trace_id"}
_CLIENT_ID = re.compile(r"[-0-9A-Za-z_.:]{1,64}")
Ended = Callable[[str, str, float], None]


class _Undecodable:
    """Stands for a request whose bytes are not a message of its type."""


_UNDECODABLE = _Undecodable()


def caller() -> Caller:
    """Return who made the call that this thread is serving."""
    found: Caller = _call.caller
    return found


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps the handlers of every service, the generated ones that only say UNIMPLEMENTED included."""

    def __init__(
        self,
        authenticator: Authenticator,
        ended: Ended | None = None,
        pools: Mapping[str, ThreadPoolExecutor] = MappingProxyType({}),
    ) -> None:
        """`ended` is told of every call: its method, code and seconds; `pools` serve certain methods apart."""
        self._authenticator = authenticator
        self._ended = ended
        self._pools = pools
        self._wrapped: dict[str, tuple[Any, Any]] = {}  # by method: its handler and that one, wrapped

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Return the handler for a call, wrapped; None when there is no such method."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith("/grpc."):  # health and reflection look after themselves
            return handler
        known = self._wrapped.get(method)  # gRPC asks at every call
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(method, handler))
        return known[1]

    def _wrap(self, path: str, handler: Any) -> Any:
        method = _Method.at(path)
        decode = _tolerant(handler.request_deserializer)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream), decode, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary), decode, handler.response_serializer
        )

    def _unary(self, method: _Method, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def serve(request: Any, context: grpc.ServicerContext) -> Any:
            call = _Call(method, context, self._ended)
            try:
                self._begin(call, request)
                answer = behaviour(request, context)
            except Exception as error:
                call.abort(error)
            call.end("OK", answer)
            return answer

        pool = self._pools.get(method.name)
        if pool is not None:
            serve.experimental_thread_pool = pool  # type: ignore[attr-defined]  # gRPC looks for it at the behaviour
        return serve

    def _stream(self, method: _Method, behaviour: Callable[[Any, Any], Iterator[Any]]) -> Callable[[Any, Any], Any]:
        def serve(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            call = _Call(method, context, self._ended)
            try:
                self._begin(call, request)
                yield from behaviour(request, context)
            except Exception as error:
                call.abort(error)
            call.end("OK")

        return serve

    def _begin(self, call: _Call, request: Any) -> None:
        _call.caller = ANONYMOUS
        context = call.context
        context.send_initial_metadata(
            (("x-request-id", call.request_id), ("x-server-trace-id", call.trace_id), *call.method.headers)
        )
        if not call.method.is_open:
            _call.caller = self._authenticator.authenticate(context.invocation_metadata())
        if request is _UNDECODABLE:
            raise InvalidRequest([Violation("request", "its bytes are not a message of this method")])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Method:
    """What is known of a method before it is called."""

    name: str
    headers: tuple[tuple[str, str], ...]
    is_open: bool  # needs no token
    is_read: bool  # changes nothing

    @classmethod
    def at(cls, path: str) -> _Method:
        """Return the method at ``/SERVICE/METHOD``."""
        name = path.lstrip("/")
        service, _, short = name.partition("/")
        return cls(
            name=name,
            headers=HEADERS.get(name, ()),
            is_open=service in OPEN_SERVICES,
            is_read=short.startswith(("Get", "List", "Watch")),
        )


class _Call:
    """One call on its way through the server."""

    __slots__ = ("_began_s", "_ended", "context", "method", "request_id", "trace_id")

    def __init__(self, method: _Method, context: grpc.ServicerContext, ended: Ended | None) -> None:
        self.method = method
        self.context = context
        self.request_id = new_request_id()
        self.trace_id = trace_id_or(self.request_id)
        self._ended = ended
        self._began_s = time.monotonic()

    def abort(self, error: Exception) -> NoReturn:
        """Answer with `error`: its code, one line, and particulars in `grpc-status-details-bin`."""
        answer = status.status_of(error, trace_id=f"request {self.request_id}")
        code = status.grpc_code(answer.code)
        if not status.is_foreseen(error) and not isinstance(error, NotImplementedError):
            log.error("call failed unforeseen", error=error, method=self.method.name, request_id=self.request_id)
        self.end(code.name)
        self.context.set_trailing_metadata((("grpc-status-details-bin", answer.SerializeToString()),))
        self.context.abort(code, answer.message)

    def end(self, code: str, answer: object = None) -> None:
        """Log the call; reads that went well, of which every poll is one, only where the log is set to show all."""
        elapsed_s = time.monotonic() - self._began_s
        if self._ended is not None:
            self._ended(self.method.name, code, elapsed_s)
        is_quiet = self.method.is_read and code == "OK"
        if is_quiet and not log.shows_debug():
            return
        who: Caller = getattr(_call, "caller", ANONYMOUS)
        fields = {"request_id": self.request_id, "subject": who.subject_id, **self._ids_of_the_client()}
        if self.trace_id != self.request_id:
            fields["trace_id"] = self.trace_id
        if isinstance(answer, operation_pb2.Operation):
            fields["operation_id"] = answer.id
        write = log.debug if is_quiet else log.info
        write("call", method=self.method.name, code=code, ms=round(elapsed_s * 1000, 1), **fields)

    def _ids_of_the_client(self) -> dict[str, str]:
        """Return the ids that the caller chose for the call, as far as they are fit for a log."""
        given = {key: value for key, value in self.context.invocation_metadata() if key in _CLIENT_IDS}
        return {
            _CLIENT_IDS[key]: value
            for key, value in given.items()
            if isinstance(value, str) and _CLIENT_ID.fullmatch(value)
        }


def new_request_id() -> str:
    """Return a random UUID. It is no secret, so the kernel is not asked, which would let go of the interpreter."""
    digits = f"{random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def trace_id_or(request_id: str) -> str:
    """Return the id of the trace that this thread is in, where traces are made; else `request_id`."""
    traces = sys.modules.get("opentelemetry.trace")
    context = traces.get_current_span().get_span_context() if traces is not None else None
    return f"{context.trace_id:032x}" if context is not None and context.is_valid else request_id


def _tolerant(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Let bytes that are no message reach the handler, which can say INVALID_ARGUMENT; gRPC itself says INTERNAL."""

    def tolerant(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception:
            return _UNDECODABLE

    return tolerant
