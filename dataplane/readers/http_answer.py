"""What an HTTP answer to a ranged GET must look like, and what is wrong with the ones that do not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from dataplane.dataclass import dataclass
from dataplane.errors import InvalidImage, SourceForbidden, SourceUnavailable
from dataplane.limits import VIRTUAL_SIZE_MAX
from dataplane.readers.http_retry import Transient, parse_retry_after

_TRANSIENT = frozenset((408, 423, 425, 429))
_FORBIDDEN = frozenset((401, 403, 410))
_PAGES = frozenset(("text/html", "application/xhtml+xml"))
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19})")
_STRONG_ETAG = re.compile(r'"[!#-~]*"')
_CONTENT_LENGTH = re.compile(r"[0-9]{1,19}")
_SETTLED_S = 60.0

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
    weak_etag: str | None = None  # compared then too, though it says nothing about single bytes
    settled: bool = False  # `modified` was long past when it was sent: later changes cannot have the same time

    def validator(self) -> str:
        """Return what tells this version from others, as well as the server does; empty when it does not."""
        return self.etag or self.modified or self.weak_etag or ""

    def condition(self) -> dict[str, str]:
        """Return the request header that makes a server itself notice a change."""
        if self.etag is not None:
            return {"If-Match": self.etag}
        return {"If-Unmodified-Since": self.modified} if self.modified is not None else {}

    def version(self) -> str | None:
        """Return what names this version also for those who open the object later, or None when nothing does."""
        if self.etag is not None:
            return f"{self.size} {self.etag}"
        return f"{self.size} {self.modified} {self.weak_etag}" if self.settled else None

    def check_version(self, name: str, headers: Mapping[str, str]) -> None:
        """Raise SourceUnavailable when an answer's validators are not the pinned ones."""
        etag = headers.get("ETag")
        if self.etag is not None:
            same = etag == self.etag
        else:
            same = self.modified in (None, headers.get("Last-Modified")) and self.weak_etag in (None, etag)
        if not same:
            raise _changed(name)


def check_status(name: str, status: int, headers: Mapping[str, str], pin: Pin | None) -> None:
    """Return when ``status`` is 206; raises SourceUnavailable for what stays wrong, Transient for what may pass."""
    if status == 206:
        return
    if status in _TRANSIENT or status >= 500:
        raise Transient(f"the server answers {status}", parse_retry_after(headers.get("Retry-After")))
    if status == 200:
        if pin is not None and pin.etag is not None and headers.get("ETag", pin.etag) != pin.etag:
            raise _changed(name)
        kind = headers.get("Content-Type", "").split(";")[0].strip().lower()
        if kind in _PAGES:
            problem = "the server answers with a web page, not with the image; check the URL"
        else:
            problem = "the server ignores ranges (it answers 200, not 206); use a server that supports them"
    else:
        problem = _WORDS.get(status, f"the server answers {status}; check the URL")
    kind_of_error = SourceForbidden if status in _FORBIDDEN else SourceUnavailable
    raise kind_of_error(f"{name}: {problem}")


def is_empty(status: int, headers: Mapping[str, str]) -> bool:
    """Tell whether this answer to the first request says that there are no bytes at all."""
    if status == 200:
        return headers.get("Content-Length") == "0" and "Transfer-Encoding" not in headers
    return status == 416 and re.fullmatch(r"bytes \*/0+", headers.get("Content-Range", "")) is not None


def read_pin(name: str, headers: Mapping[str, str]) -> Pin:
    """Return what the first answer pins.

    Raises SourceUnavailable when it does not tell the size, InvalidImage when that is out of bounds.
    """
    _check_form(name, headers)
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if match is None:
        raise SourceUnavailable(
            f"{name}: the server does not tell the size (no usable Content-Range); use another server"
        )
    size = int(match[3])
    if size > VIRTUAL_SIZE_MAX:
        raise InvalidImage(f"{name} has {size} bytes; at most {VIRTUAL_SIZE_MAX} are accepted")
    etag = _sendable(headers.get("ETag"))
    modified = _sendable(headers.get("Last-Modified"))
    if etag is not None and _STRONG_ETAG.fullmatch(etag):
        return Pin(size, etag, modified)
    return Pin(size, None, modified, etag, _is_settled(modified, headers.get("Date")))


def check_answer(name: str, headers: Mapping[str, str], pin: Pin, *, first: int, last: int) -> None:
    """Raise SourceUnavailable unless a 206 answer is bytes ``first`` to ``last`` (inclusive) of what was pinned."""
    _check_form(name, headers)
    pin.check_version(name, headers)
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if match is None or match[1] is None or (int(match[1]), int(match[2])) != (first, last):
        raise SourceUnavailable(f"{name}: the server answers with another range than bytes {first} to {last}")
    if int(match[3]) != pin.size:
        raise _changed(name)
    length = headers.get("Content-Length")
    if length is not None and not (_CONTENT_LENGTH.fullmatch(length) and int(length) == last - first + 1):
        raise SourceUnavailable(f"{name}: the server's Content-Length contradicts its Content-Range")


def _changed(name: str) -> SourceUnavailable:
    return SourceUnavailable(f"{name} has changed since it was opened; start again")


def _check_form(name: str, headers: Mapping[str, str]) -> None:
    if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise SourceUnavailable(
            f"{name}: the server encodes its answer, though identity was asked for; use another server"
        )
    if headers.get("Content-Type", "").strip().lower().startswith("multipart/"):
        raise SourceUnavailable(f"{name}: the server answers in several parts, though one range was asked for")


def _is_settled(modified: str | None, date: str | None) -> bool:
    """Tell whether an answer was sent so long after the last change that a second counts (RFC 9110, 8.8.2.2)."""
    try:
        age = parsedate_to_datetime(date or "") - parsedate_to_datetime(modified or "")
    except (ValueError, TypeError, OverflowError):
        return False
    return age.total_seconds() >= _SETTLED_S


def _sendable(value: str | None) -> str | None:
    """Return a header value that may be sent back, or None: a hostile one must not break the next request."""
    return value if value is not None and value.isascii() and value.isprintable() and len(value) <= 1024 else None
