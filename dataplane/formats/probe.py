"""open_source: one call from a path or URL to an ImageSource; what it is is told by its bytes, never by its name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from dataplane.byte_reader import ByteReader
from dataplane.errors import SourceUnavailable, Unsupported, UsageError
from dataplane.formats.raw import RawSource
from dataplane.formats.signatures import FOOTER_SIZE, HEAD_SIZE, refusal_of_footer, refusal_of_head
from dataplane.image_source import ImageSource

FORMATS = ("auto", "raw", "qcow2")
"""What ``format`` may be."""

_FORMATS_NOT_YET = frozenset(("vmdk", "vhd", "vpc", "vhdx", "vdi", "qed", "qcow", "parallels"))

_QCOW_MAGIC = b"QFI\xfb"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_source(
    location: str | os.PathLike[str],
    *,
    format: str = "auto",
    backing: Sequence[str | os.PathLike[str]] = (),
    data_file: str | os.PathLike[str] | None = None,
    allow_source: Sequence[str] = (),
    allow_http: bool = True,
    timeout_s: float = 60.0,
    ca_file: str | os.PathLike[str] | None = None,
) -> ImageSource:
    """Open the image at ``location``, a path or an http(s) URL; the caller closes it.

    ``format`` is one of FORMATS. ``backing`` and ``data_file`` name files that the image may refer to; naming one that
    it does not use is a mistake. ``allow_source`` lists hosts (``HOST`` or ``HOST:PORT``) that may have addresses
    inside this network; ``timeout_s`` bounds the time without progress of one read from a URL, retries included;
    ``ca_file`` (PEM) replaces the system's trust store.

    Raises UsageError for arguments that contradict each other or the image, SourceUnavailable when the source cannot
    be read, InvalidImage when its bytes break the rules of its format, Unsupported for what is refused by name.
    """
    _check_format(format)
    reader = _open_reader(location, allow_source, allow_http, timeout_s, ca_file)
    try:
        source = _open_format(reader, format)
        if backing:
            raise UsageError(f"{reader.name} is a {source.format} image without a backing file; leave --backing out")
        if data_file is not None:
            raise UsageError(f"{reader.name} is a {source.format} image without a data file; leave --data-file out")
    except BaseException:
        reader.close()
        raise
    return source


def _check_format(format: str) -> None:
    if format in _FORMATS_NOT_YET:
        raise Unsupported(f"format {format} is not supported yet; convert the image: qemu-img convert -O qcow2")
    if format not in FORMATS:
        raise UsageError(f"format {format!r} does not exist; choose {', '.join(FORMATS)}")


def _open_reader(
    location: str | os.PathLike[str],
    allow_source: Sequence[str],
    allow_http: bool,
    timeout_s: float,
    ca_file: str | os.PathLike[str] | None,
) -> ByteReader:
    path = os.fspath(location)
    scheme = _URL.match(path)
    if scheme is None:
        from dataplane.readers.file import FileReader

        return FileReader(path)
    if scheme[1].lower() not in ("http", "https"):
        raise SourceUnavailable(f"a source with the scheme {scheme[1]}:// is not read; give a path or an http(s) URL")
    from dataplane.readers.http import HttpReader

    return HttpReader(path, allow_source=allow_source, allow_http=allow_http, timeout_s=timeout_s, ca_file=ca_file)


def _open_format(reader: ByteReader, format: str) -> ImageSource:
    if format == "raw" or reader.size == 0:
        return RawSource(reader)
    head = reader.read_at(0, min(reader.size, HEAD_SIZE))
    if format == "qcow2" or head.startswith(_QCOW_MAGIC):
        # Imported here: numpy, which the tables are read with, costs start-up time.
        from dataplane.formats.qcow2 import Qcow2Source

        return Qcow2Source(reader)
    refusal = refusal_of_head(head, reader.size)
    if refusal is None:
        footer_size = min(reader.size, FOOTER_SIZE)
        refusal = refusal_of_footer(reader.read_at(reader.size - footer_size, footer_size))
    if refusal is not None:
        raise Unsupported(f"{reader.name} is {refusal.what}; {refusal.advice}")
    return RawSource(reader)
