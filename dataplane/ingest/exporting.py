"""Exporting: an image of a store becomes a file, device or stream again, every chunk verified before it is written."""

from __future__ import annotations

import io
import os
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

from dataplane.dataclass import dataclass
from dataplane.errors import UsageError
from dataplane.hints import TYPE_CHECKING
from dataplane.ingest.crew import thread_count
from dataplane.ingest.export_targets import OpenTarget, check_target, drop_cached, new_file, opened_device, zeroing
from dataplane.ingest.progress import Progress
from dataplane.ingest.qcow2_export import Qcow2Export
from dataplane.ingest.raw_export import RawExport, StreamExport
from dataplane.ingest.rereading import reread
from dataplane.store.layout import naming
from dataplane.store.pack_readers import packs_open_max
from dataplane.store.store import Store
from dataplane.store.stored_image import StoredImage

if TYPE_CHECKING:
    from typing import BinaryIO

FORMATS = ("raw", "qcow2")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What an export wrote. `virtual_size` is the size of the disk, `bytes_written` what was not a hole or a table."""

    name: str
    root: bytes
    format: str
    virtual_size: int
    bytes_written: int
    verified: bool
    """Whether the target was read again and compared."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """How to write. Raises UsageError for what does not go together."""

    format: str = "raw"
    compressed: bool = False
    """qcow2 only: zstd clusters, the store's own frames where it has them."""
    sparse: bool = True
    """Raw only: zeros become holes, or are written."""
    sync: bool = True
    """Files only: wait until the disk has everything. Devices are always waited for."""
    verify: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UsageError(f"format {self.format!r} is not known: use one of {', '.join(FORMATS)}")
        if self.compressed and self.format != "qcow2":
            raise UsageError("only qcow2 can be compressed")
        if not self.sparse and self.format != "raw":
            raise UsageError("only raw can be written without holes")


def export_image(
    store: Store,
    name: str,
    target: str | os.PathLike[str],
    *,
    format: str = "raw",
    force: bool = False,
    sparse: bool = True,
    compressed: bool = False,
    sync: bool = True,
    verify: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> ExportResult:
    """Write image `name` to file or block device `target` as `format`: raw or qcow2 (which may be `compressed`).

    A file appears whole or not at all, and is exactly as long as the disk when it is raw. Files are replaced and
    devices written over only with `force`. With `sparse` zeros become holes, on a device they are freed where it can
    do that; without, they are written. With `sync` a file is on the disk before it has its name. `verify` reads back
    what was written. `threads` is one a core unless given.

    Raises NotFound, AlreadyExists, UsageError (a target of another kind, too small or in use; options that do not go
    together), Corrupt (a chunk does not verify, or what was written does not; a file is not left), NoSpace, IoFailed or
    Cancelled.
    """
    options = ExportOptions(format=format, compressed=compressed, sparse=sparse, sync=sync, verify=verify)
    path = Path(target)
    started = time.monotonic()
    progress = progress or Progress()
    count = thread_count(threads)
    check_target(path, force=force)
    if path.is_block_device() and format != "raw":
        raise UsageError(f"{path} is a block device: only raw is written to one")
    with (
        store.reading(name) as pin,
        StoredImage(store, pin.root, pin.domain, packs_open_max(count)) as image,
        opened(path, image.virtual_size, options, force=force) as opened_target,
    ):
        export = exporter(store, image, opened_target, options, progress, cancelled)
        export.run(count)
        if verify:
            drop_cached(opened_target)
            reread(
                image, opened_target.reopen, format,
                name=str(path), threads=count, progress=progress, cancelled=cancelled,
            )  # fmt: skip
    return ExportResult(
        name=name,
        root=pin.root,
        format=format,
        virtual_size=image.virtual_size,
        bytes_written=export.bytes_written,
        verified=verify,
        seconds=time.monotonic() - started,
    )


def opened(path: Path, size: int, options: ExportOptions, *, force: bool) -> AbstractContextManager[OpenTarget]:
    """Return a context in which `path` is open for writing."""
    if path.is_block_device():
        return opened_device(path, size)
    return new_file(path, force=force, sync=options.sync)


def exporter(
    store: Store,
    image: StoredImage,
    target: OpenTarget,
    options: ExportOptions,
    progress: Progress,
    cancelled: threading.Event | None,
) -> RawExport | Qcow2Export:
    """Return what writes `image` to an open target."""
    if options.format == "qcow2":
        return Qcow2Export(
            image, target.fd, target.path,
            compressed=options.compressed, level=store.codec.level, progress=progress, cancelled=cancelled,
        )  # fmt: skip
    zero = None
    if target.is_device:
        stopped = cancelled.is_set if cancelled is not None else lambda: False
        zero = zeroing(target.fd, target.path, sparse=options.sparse, stopped=stopped)
    elif options.sparse:
        with naming(target.path, "sizing"):
            os.ftruncate(target.fd, image.virtual_size)
    elif image.virtual_size:
        # Allocated first: what is not data then reads as zeros that occupy the disk, and a full disk shows at once.
        with naming(target.path, "allocating"):
            os.posix_fallocate(target.fd, 0, image.virtual_size)
    return RawExport(image, target.fd, target.path, zero=zero, progress=progress, cancelled=cancelled)


def export_stream(
    store: Store,
    name: str,
    stream: BinaryIO | io.RawIOBase,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> ExportResult:
    """Write image `name` to a stream in disk order, zeros included, with 4 MiB a thread in memory.

    Raises as ``export_image`` does; IoFailed when whoever reads the stream has gone.
    """
    started = time.monotonic()
    count = thread_count(threads)
    with (
        store.reading(name) as pin,
        StoredImage(store, pin.root, pin.domain, packs_open_max(count)) as image,
    ):
        StreamExport(image, stream, progress=progress or Progress(), cancelled=cancelled).run(count)
    return ExportResult(
        name=name,
        root=pin.root,
        format="raw",
        virtual_size=image.virtual_size,
        bytes_written=image.virtual_size,
        verified=False,
        seconds=time.monotonic() - started,
    )
