"""What an HTTP answer to a ranged GET must look like, and what is wrong with the ones that do not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dataplane.errors import InvalidImage, SourceUnavailable
from dataplane.limits import VIRTUAL_SIZE_MAX
from dataplane.readers.http_retry import Transient, parse_retry_after

_TRANSIENT = frozenset((408, 423, 425, 429))
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19})")
_CONTENT_LENGTH = re.compile(r"[0-9]{1,19}")

_WORDS = {
    400: "the server calls the request malformed (400); check the URL",
    401: "the server asks for credentials (401); give a pre-signed URL",
    403: "access is refused (403); the URL may have expired or its signature may be wrong",
    404: "nothing is there (404); check the URL",
    410: "it is gone (410)",
    412: "it has changed since it was opened (412); start again",
    416: "the server does not have the range that was asked for (416)",
}


@dataclass(frozen=True, slots=True)
class Pin:
    """What has to stay the same from the first answer to the last, so that all bytes belong to one version."""

    size: int
    etag: str | None  # strong ones only
    modified: str | None  # used when there is no strong ETag

    def condition(self) -> dict[str, str]:
        """Return the request header that makes a server itself notice a change."""
        if self.etag is not None:
            return {"If-Match": self.etag}
        return {"If-Unmodified-Since": self.modified} if self.modified is not None else {}


def check_status(name: str, status: int, headers: Mapping[str, str]) -> None:
    """Return when ``status`` is 206; raises SourceUnavailable for what stays wrong, Transient for what may pass."""
    if status == 206:
        return
    if status in _TRANSIENT or status >= 500:
        raise Transient(f"the server answers {status}", parse_retry_after(headers.get("Retry-After")))
    if status == 200:
        problem = "the server ignores ranges (it answers 200, not 206); use a server that supports them"
    elif 300 <= status < 400:
        problem = f"the server redirects ({status}), which is not followed; give the final URL"
    else:
        problem = _WORDS.get(status, f"the server answers {status}; check the URL")
    raise SourceUnavailable(f"{name}: {problem}")


def is_empty(status: int, headers: Mapping[str, str]) -> bool:
    """Tell whether this answer to the first request says that there are no bytes at all."""
    if status == 200:
        return headers.get("Content-Length") == "0" and "Transfer-Encoding" not in headers
    return status == 416 and re.fullmatch(r"bytes \*/0+", headers.get("Content-Range", "")) is not None


def read_pin(name: str, headers: Mapping[str, str]) -> Pin:
    """Return what the first answer pins.

    Raises SourceUnavailable when it does not tell the size, InvalidImage when that is out of bounds.
    """
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if match is None:
        raise SourceUnavailable(
            f"{name}: the server does not tell the size (no usable Content-Range); use another server"
        )
    size = int(match[3])
    if size > VIRTUAL_SIZE_MAX:
        raise InvalidImage(f"{name} has {size} bytes; at most {VIRTUAL_SIZE_MAX} are accepted")
    etag = _sendable(headers.get("ETag"))
    if etag is not None and not (etag.startswith('"') and etag.endswith('"') and len(etag) > 1):
        etag = None
    return Pin(size, etag, _sendable(headers.get("Last-Modified")))


def check_answer(name: str, headers: Mapping[str, str], pin: Pin, *, first: int, last: int) -> None:
    """Raise SourceUnavailable unless a 206 answer is bytes ``first`` to ``last`` (inclusive) of what was pinned."""
    if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise SourceUnavailable(
            f"{name}: the server encodes its answer, though identity was asked for; use another server"
        )
    changed = SourceUnavailable(f"{name} has changed since it was opened; start again")
    if pin.etag is not None:
        if headers.get("ETag") != pin.etag:
            raise changed
    elif pin.modified is not None and headers.get("Last-Modified") != pin.modified:
        raise changed
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if match is None or match[1] is None or (int(match[1]), int(match[2])) != (first, last):
        raise SourceUnavailable(f"{name}: the server answers with another range than bytes {first} to {last}")
    if int(match[3]) != pin.size:
        raise changed
    length = headers.get("Content-Length")
    if length is not None and not (_CONTENT_LENGTH.fullmatch(length) and int(length) == last - first + 1):
        raise SourceUnavailable(f"{name}: the server's Content-Length contradicts its Content-Range")


def _sendable(value: str | None) -> str | None:
    """Return a header value that may be sent back, or None: a hostile one must not break the next request."""
    return value if value is not None and value.isascii() and value.isprintable() and len(value) <= 1024 else None
