"""Where a change comes from: who asks for it, and what makes a repetition of the call known as one."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.message import Message

from service.auth import Caller
from service.faults import InvalidRequest, Violation

KEY_HEADER = "idempotency-key"
KEY_LENGTH_MAX = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One call that changes something. `key` is empty when the caller gave none; `request` is the message's bytes."""

    caller: Caller
    method: str = ""
    key: str = ""
    request: bytes = b""


def origin_of(request: Message, caller: Caller, context: grpc.ServicerContext) -> Origin:
    """Return where `request` comes from. Raises InvalidRequest for an idempotency key that is none.

    Keys are scoped to the caller and the method, of which each has a message of its own.
    """
    given = [value for key, value in context.invocation_metadata() or () if key == KEY_HEADER]
    key = given[0] if given else ""
    if not isinstance(key, str) or len(key) > KEY_LENGTH_MAX or not key.isascii() or not key.isprintable():
        problem = f"is not 1 to {KEY_LENGTH_MAX} printable ASCII characters"
        raise InvalidRequest([Violation(KEY_HEADER, problem)])
    if len(given) > 1:
        raise InvalidRequest([Violation(KEY_HEADER, "is given more than once")])
    return Origin(
        caller=caller,
        method=request.DESCRIPTOR.full_name,
        key=key,
        request=request.SerializeToString(deterministic=True) if key else b"",
    )
