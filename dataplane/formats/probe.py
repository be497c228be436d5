"""open_source: one call from a path or URL to an ImageSource; what it is is told by its bytes, never by its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from dataplane.byte_reader import ByteReader
from dataplane.errors import SourceUnavailable, Unsupported, UsageError
from dataplane.formats.known import KNOWN, Extras, Location, recognise
from dataplane.image_source import ImageSource
from dataplane.limits import BACKING_CHAIN_MAX

FORMATS = ("auto", *KNOWN)
"""What ``format`` may be."""

_FORMATS_REFUSED = frozenset(("qed", "qcow", "parallels"))

_FORMATS_BELOW = {None: "auto", "": "auto", "file": "raw", "host_device": "raw", "vpc": "vhd"}
"""What headers call formats that have another name here."""

_SCHEME_MARKS = frozenset("+.-")
"""What a URL's scheme has beside letters and digits of ASCII."""


def open_source(
    location: Location,
    *,
    format: str = "auto",
    backing: Sequence[Location] = (),
    data_file: Location | None = None,
    extent_dir: Location | None = None,
    snapshot: str | None = None,
    allow_source: Sequence[str] = (),
    allow_http: bool = True,
    timeout_s: float = 60.0,
    ca_file: Location | None = None,
) -> ImageSource:
    """Open the image at ``location``, a path or an http(s) URL; the caller closes it.

    ``format`` is one of FORMATS and holds for ``location``. Nothing that an image names is opened unless it is named
    here again: ``backing`` has the images below it, from the nearest, exactly as many as the images ask for;
    ``data_file`` the file in which a qcow2 image keeps its clusters; ``extent_dir`` the folder with the extents of a
    VMDK descriptor. Naming what the image does not use is a mistake. ``snapshot`` picks an internal snapshot of a
    qcow2 image by id or name. ``allow_source`` lists hosts (``HOST`` or ``HOST:PORT``) that may have addresses inside
    this network; ``timeout_s`` bounds the time without progress of one read from a URL, retries included;
    ``ca_file`` (PEM) replaces the system's trust store.

    Raises UsageError for arguments that contradict each other or the image, SourceUnavailable when the source cannot
    be read, InvalidImage when its bytes break the rules of its format, Unsupported for what is refused by name.
    """
    _check_format(format)
    if len(backing) >= BACKING_CHAIN_MAX:
        raise UsageError(f"{len(backing) + 1} images in one chain are more than {BACKING_CHAIN_MAX}")
    with ExitStack() as opened:  # closes all of it when something is wrong

        def read(place: Location) -> ByteReader:
            reader = _open_reader(place, allow_source, allow_http, timeout_s, ca_file)
            opened.callback(reader.close)
            return reader

        reader = read(location)
        extras = Extras(read(data_file) if data_file is not None else None, extent_dir, snapshot)
        layers = [_open_format(reader, format, extras)]
        opened.callback(layers[0].close)
        for place in backing:
            below = _format_below(layers[-1])
            if below is None:
                raise UsageError(
                    f"{layers[-1].readers[0].name} is a {layers[-1].format} image without a backing file; leave "
                    f"--backing {os.fspath(place)!r} out"
                )
            layers.append(_open_format(read(place), below, Extras(extent_dir=extent_dir)))
            opened.callback(layers[-1].close)
        _check_complete(layers, extent_dir)
        source = _chained(layers)
        source.choice = " ".join([*(layer.format for layer in layers), snapshot or ""])
        opened.pop_all()
    return source


def _check_format(format: str) -> None:
    if format == "vpc":
        raise UsageError("the format that qemu-img calls vpc is called vhd here")
    if format in _FORMATS_REFUSED:
        raise Unsupported(f"format {format} is not supported; convert the image: qemu-img convert -O qcow2")
    if format not in FORMATS:
        raise UsageError(f"format {format!r} does not exist; choose {', '.join(FORMATS)}")


def _open_reader(
    location: Location,
    allow_source: Sequence[str],
    allow_http: bool,
    timeout_s: float,
    ca_file: Location | None,
) -> ByteReader:
    path = os.fspath(location)
    scheme = _scheme(path)
    if scheme is None:
        from dataplane.readers.file import FileReader

        return FileReader(path)
    if scheme.lower() not in ("http", "https"):
        raise SourceUnavailable(f"a source with the scheme {scheme}:// is not read; give a path or an http(s) URL")
    from dataplane.readers.http import HttpReader

    return HttpReader(path, allow_source=allow_source, allow_http=allow_http, timeout_s=timeout_s, ca_file=ca_file)


def _scheme(path: str) -> str | None:
    """Return what stands before the first ``://`` when it is a scheme, None for a path."""
    scheme, mark, _ = path.partition("://")
    plain = all(sign.isascii() and (sign.isalnum() or sign in _SCHEME_MARKS) for sign in scheme)
    return scheme if mark and plain and scheme[:1].isalpha() else None


def _open_format(reader: ByteReader, format: str, extras: Extras) -> ImageSource:
    # An empty file is refused as what it is, whatever it was to be.
    known = recognise(reader) if format == "auto" or reader.size == 0 else KNOWN[format]
    if extras.data_file is not None and "data_file" not in known.extras:
        raise UsageError(f"{reader.name} is a {known.name} image without a data file; leave --data-file out")
    if extras.snapshot is not None and "snapshot" not in known.extras:
        raise UsageError(f"{reader.name} is a {known.name} image without internal snapshots; leave --snapshot out")
    return known.open(reader, extras)


def _format_below(source: ImageSource) -> str | None:
    """Return the format of the image that ``source`` needs below it, ``auto`` if it does not say, None for none.

    An image that lies below is of the format that the one above it says, as its writer saw it. Where that is raw, no
    header that a guest has written into it counts; where it says nothing the bytes decide, and what a guest has put
    there can name no file that the caller has not named: one name too few is an error.
    """
    if getattr(source, "backing_name", None) is None:
        return None
    said = getattr(source, "backing_format", None)
    format = _FORMATS_BELOW.get(said, said)
    if format not in FORMATS:
        raise Unsupported(f"{source.readers[0].name} has a backing file of format {format!r}; convert the chain first")
    return format


def _check_complete(layers: Sequence[ImageSource], extent_dir: Location | None) -> None:
    last, name = layers[-1], layers[-1].readers[0].name
    if getattr(last, "backing_name", None) is not None:
        called = last.backing_name  # type: ignore[attr-defined]
        raise Unsupported(
            f"{name} needs a backing file, which it calls {called!r}; it is never opened because an image names it: "
            "give its path with --backing"
        )
    if extent_dir is not None and not any("extent_dir" in KNOWN[layer.format].extras for layer in layers):
        raise UsageError(f"{name} is a {last.format} image without extents of its own; leave --extent-dir out")


def _chained(layers: Sequence[ImageSource]) -> ImageSource:
    if len(layers) == 1:
        return layers[0]
    # Imported here, as the formats are.
    from dataplane.formats.chain import ChainSource

    for layer in layers:
        share_memory: Callable[[int], None] | None = getattr(layer, "share_memory", None)
        if share_memory is not None:
            share_memory(len(layers))
    return ChainSource(layers)
