"""The ASGI application: finds the call, makes it over gRPC inside of this process, and answers in JSON.

Everything that a call goes through, tokens, validation, ids, metrics, is behind that gRPC call: there is no other way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.types import Receive, Scope, Send

from service import status
from service.faults import InvalidRequest, Violation
from service.log import get_logger
from service.rest import openapi, transcoding
from service.rest.http_rules import Route, Routes

BODY_SIZE_MAX = 1 << 20
CALL_TIMEOUT_S = 60.0
_PASSED_ON = ("authorization", "idempotency-key", "x-client-request-id", "x-client-trace-id", "traceparent")
_GIVEN_BACK = ("x-request-id", "x-server-trace-id", "x-operation-poll-interval")
_HEADER = re.compile(r"[\x20-\x7e]*")

log = get_logger(__name__)


class Refused(Exception):
    """The request is answered without a call. `http_status` is used instead of the one that the code has."""

    def __init__(self, code: int, message: str, http_status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status_pb2.Status(code=code, message=message)
        self.http_status = http_status
        self.headers = headers or {}


class Gateway:
    """Serves every route through one channel."""

    def __init__(self, routes: Routes, channel: grpc.Channel) -> None:
        self._routes = routes
        self._calls = {
            id(route): channel.unary_unary(
                route.path,
                request_serializer=_serialized,
                response_deserializer=route.answer_class().FromString,
            )
            for route in routes.all
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI passes it."""
        response = await self.serve(Request(scope, receive))
        await response(scope, receive, send)

    async def serve(self, request: Request) -> Response:
        """Answer one request, whatever it is."""
        try:
            route, variables = self._find(request)
            message = route.new_request()
            body = await _body(request) if route.body else None
            if not route.body and await _body(request, needs_type=False):
                raise InvalidRequest([Violation("body", "this call has none: put its fields into the query")])
            query = request.query_params.multi_items()
            transcoding.read_request(message, body=body, variables=variables, query=query)
            metadata = _metadata(request)
            return await run_in_threadpool(self._call, route, message, metadata)
        except Refused as refused:
            return _json(transcoding.error_answer(refused.status, ""), refused.http_status, refused.headers)
        except InvalidRequest as error:
            wrong = status.status_of(error, trace_id="")
            return _json(transcoding.error_answer(wrong, ""), 400)

    def _find(self, request: Request) -> tuple[Route, dict[str, str]]:
        path = request.scope.get("raw_path", b"").partition(b"?")[0].decode("ascii", "replace")
        found = self._routes.find(request.method, path)
        if found is not None:
            return found
        verbs = self._routes.verbs_of(path)
        if verbs:
            text = f"{request.method} is not offered for this path, only {', '.join(verbs)}"
            raise Refused(code_pb2.UNIMPLEMENTED, text, 405, {"allow": ", ".join(verbs)})
        raise Refused(code_pb2.NOT_FOUND, "there is no such path: /openapi.json lists those there are", 404)

    def _call(self, route: Route, message: Message, metadata: list[tuple[str, str]]) -> Response:
        try:
            found, call = self._calls[id(route)].with_call(message, metadata=tuple(metadata), timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            return _error(error)
        return _json(transcoding.answer(found), 200, _headers(call.initial_metadata()))


def application(routes: Routes, channel: grpc.Channel) -> Starlette:
    """Return the application; `channel` leads to the servicers of this process."""
    gateway = Gateway(routes, channel)
    document = openapi.document(routes)
    page = openapi.page(document)

    async def describe(_request: Request) -> Response:
        return JSONResponse(document)

    async def show(_request: Request) -> Response:
        return HTMLResponse(page)

    async def unforeseen(_request: Request, error: Exception) -> Response:
        log.error("rest call failed unforeseen", error=error)
        text = "internal error: the server's log has the particulars"
        failed = status_pb2.Status(code=code_pb2.INTERNAL, message=text)
        return _json(transcoding.error_answer(failed, ""), 500)

    made = Starlette(
        routes=[StarletteRoute("/openapi.json", describe), StarletteRoute("/docs", show)],
        exception_handlers={Exception: unforeseen},
    )
    # Not a route for every path: Starlette's patterns match no newline, which a path may well hold.
    made.router.default = gateway
    made.router.redirect_slashes = False
    return made


async def _body(request: Request, *, needs_type: bool = True) -> bytes:
    """Return the body. Raises Refused when it is too large, or not said to be JSON."""
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > BODY_SIZE_MAX:
                text = f"the body is larger than {BODY_SIZE_MAX} bytes"
                raise Refused(code_pb2.INVALID_ARGUMENT, text, 413, {"connection": "close"})
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise Refused(code_pb2.CANCELLED, "the client has gone", 499) from error
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A page of another site can make a browser send text to this address, but not JSON.
    if needs_type and size and kind != "application/json":
        raise Refused(code_pb2.INVALID_ARGUMENT, "the body has to be of type application/json", 415)
    return b"".join(chunks)


def _metadata(request: Request) -> list[tuple[str, str]]:
    """Return the headers that are passed on. Raises Refused for what cannot be one, or comes from another site."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Refused(code_pb2.PERMISSION_DENIED, "pages of other sites may not call this server", 403)
    metadata = [(name, value) for name in _PASSED_ON for value in request.headers.getlist(name)]
    for name, value in metadata:
        if _HEADER.fullmatch(value) is None:
            raise InvalidRequest([Violation(name, "holds characters that a header cannot have")])
    return metadata


def _error(error: Any) -> Response:
    """Return the answer for a call that failed."""
    code: int = error.code().value[0]
    found = status_pb2.Status(code=code, message=error.details() or error.code().name)
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            found = status_pb2.Status.FromString(value)
    headers = _headers(error.initial_metadata() or ())
    body = transcoding.error_answer(found, headers.get("x-request-id", ""))
    if code == code_pb2.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    return _json(body, transcoding.HTTP_STATUS.get(code, 500), headers)


def _headers(metadata: Iterable[tuple[str, Any]]) -> dict[str, str]:
    return {key: value for key, value in metadata if key in _GIVEN_BACK and isinstance(value, str)}


def _json(content: bytes, code: int, headers: dict[str, str] | None = None) -> Response:
    return Response(content, code, media_type="application/json", headers=headers)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()
