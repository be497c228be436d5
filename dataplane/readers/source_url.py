"""SourceUrl: an http(s) URL taken apart strictly, with a name for messages that leaves its secrets out."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urljoin, urlsplit

from dataplane.dataclass import dataclass, field
from dataplane.errors import SourceUnavailable

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})")
_URL_SIZE_MAX = 16 << 10

_SIGNING = re.compile(
    r"x-(?:amz|goog|oss|cos)-.*|(?:aws|google|oss)accesskeyid|googleaccessid|key-pair-id|signature|expires"
)
_SIGNING_BESIDE = {
    "sig": re.compile(r"s[vsrtpe]|srt|sip|spr|sig|skoid|sktid|sk[tesv]|saoid|suoid|scid"),
    "key-pair-id": re.compile(r"policy"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUrl:
    """Where to connect and what to ask for. Only ``target`` holds the query, which may be a secret."""

    scheme: str
    host: str  # without brackets
    port: int
    target: str = field(repr=False)  # path and query, as written
    name: str  # for messages: no userinfo, query or fragment

    @property
    def object_name(self) -> str:
        """What is asked for, whoever has signed for it: for comparing, not for messages, as it may hold secrets."""
        path, _, query = self.target.partition("?")
        kept = "&".join(unsigned(query.split("&"))) if query else ""
        return f"{self.scheme}://{self.host.lower()}:{self.port}{path}?{kept}"

    @property
    def host_header(self) -> str:
        """The value of the Host header: the port only when it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def unsigned(parameters: Sequence[str]) -> list[str]:
    """Return the parameters of a query that no known way of signing URLs has added, in order.

    What is not known to be part of a signature may say which object is meant, and stays.
    """
    names = [parameter.partition("=")[0].lower() for parameter in parameters]
    # Some names are those of a signature only beside another one.
    patterns = [_SIGNING, *(pattern for mark, pattern in _SIGNING_BESIDE.items() if mark in names)]
    return [
        parameter
        for parameter, name in zip(parameters, names, strict=True)
        if not any(pattern.fullmatch(name) for pattern in patterns)
    ]


class _Refused(Exception):
    """A URL is not read; the text says why, without repeating its query."""


def parse_source_url(url: str, *, allow_http: bool) -> SourceUrl:
    """Take ``url`` apart; raises SourceUnavailable when it is malformed, holds userinfo or its scheme is refused.

    No message repeats more of the URL than scheme, host and path.
    """
    try:
        return _parse(url, allow_http=allow_http)
    except _Refused as problem:
        raise SourceUnavailable(str(problem)) from None


def parse_redirect(name: str, location: str | None, base: SourceUrl, *, allow_http: bool) -> SourceUrl:
    """Return where an answer from ``base`` redirects to: ``location`` is the header, an absolute or relative URL.

    The rules are those of a URL from a user, and https never becomes http. ``name`` is what messages call the source.
    Raises SourceUnavailable in words that repeat nothing of ``location`` but its scheme and host.
    """
    if location is None or not location.strip():
        raise SourceUnavailable(f"{name}: the server redirects without saying where; give the final URL")
    try:
        _check_characters(location)
        target = _parse(_joined(base, location), allow_http=True)
    except _Refused as problem:
        raise SourceUnavailable(f"{name}: the server redirects to a URL that is refused: {problem}") from None
    if target.scheme == "http" and (base.scheme == "https" or not allow_http):
        raise SourceUnavailable(
            f"{name}: the server redirects to plain http at host {target.host}, which is refused; give an https URL"
        )
    return target


def _joined(base: SourceUrl, location: str) -> str:
    try:
        return urljoin(f"{base.scheme}://{base.host_header}{base.target}", location)
    except ValueError:
        raise _Refused("the URL is malformed") from None


def _check_characters(url: str) -> None:
    if len(url) > _URL_SIZE_MAX:
        raise _Refused(f"a URL of {len(url)} characters is refused; at most {_URL_SIZE_MAX} are read")
    # urlsplit would drop some of these without a word, and others would end the request line early.
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise _Refused("the URL holds a space, a backslash or a character that is not ASCII; percent-encode it")


def _parse(url: str, *, allow_http: bool) -> SourceUrl:
    _check_characters(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _Refused("the URL is malformed; write http(s)://HOST[:PORT]/PATH") from None
    if parts.scheme not in _PORTS:
        raise _Refused(f"the URL's scheme {parts.scheme[:20]!r} is refused; give an http(s) URL")
    if "@" in parts.netloc:
        raise _Refused("the URL holds a user name or password before its host, which is refused; leave it out")
    host = parts.hostname or ""
    if not (_HOST.fullmatch(host) or _is_v6(host)) or port == 0:
        raise _Refused("the URL has no valid host; write http(s)://HOST[:PORT]/PATH")
    if parts.scheme == "http" and not allow_http:
        raise _Refused(f"http://{parts.netloc}{parts.path}: plain http is refused; give an https URL")
    path = parts.path or "/"
    return SourceUrl(
        scheme=parts.scheme,
        host=host,
        port=port or _PORTS[parts.scheme],
        target=f"{path}?{parts.query}" if parts.query else path,
        name=f"{parts.scheme}://{parts.netloc}{parts.path}",
    )


def _is_v6(host: str) -> bool:
    try:
        return "%" not in host and bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False
