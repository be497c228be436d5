"""The files that a VMDK descriptor lists, found by plain names in a folder that the caller gave, and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dataplane.byte_reader import ByteReader
from dataplane.engine.batches import BatchBuilder
from dataplane.errors import InvalidImage, SourceUnavailable, Unsupported
from dataplane.formats.tables import SpaceBudget, add_plain, add_zeros, check_inside
from dataplane.formats.vmdk_descriptor import Descriptor, ListedExtent, parse_descriptor, shown
from dataplane.formats.vmdk_grains import Grains
from dataplane.formats.vmdk_header import (
    MAGIC,
    MAGIC_COWD,
    SparseHeader,
    read_descriptor,
    read_header,
    read_header_cowd,
)
from dataplane.hints import Protocol
from dataplane.readers.file import FileReader


class Piece(Protocol):
    """A part of the disk that one extent holds."""

    index: int
    """The number of the reader that has its bytes."""

    def add_rows(self, rows: BatchBuilder, budget: SpaceBudget) -> Iterator[int]:
        """Add the piece's rows, and yield up to where (bytes of the disk) all is there; ``budget`` is its reader's."""


class _Zeros:
    """A piece that is all zeros and in no file."""

    index = 0

    def __init__(self, base: int, size: int) -> None:
        self._base = base
        self._size = size

    def add_rows(self, rows: BatchBuilder, budget: SpaceBudget) -> Iterator[int]:
        add_zeros(rows, self._base, self._base + self._size)
        yield self._base + self._size


class _Flat:
    """A piece that is in its file byte for byte."""

    def __init__(self, reader: ByteReader, extent: ListedExtent, *, index: int, base: int) -> None:
        self.index = index
        self._reader = reader
        self._extent = extent
        self._base = base

    def add_rows(self, rows: BatchBuilder, budget: SpaceBudget) -> Iterator[int]:
        budget.take_ranges([self._extent.file_offset], self._extent.size, "extents")
        yield from add_plain(
            rows, self._reader, self._extent.file_offset, self._extent.size, offset=self._base, index=self.index
        )


def open_listing(reader: ByteReader, folder: Path, descriptor: Descriptor) -> Listing:
    """Open every file that ``descriptor``, read from ``reader``, lists; all of them are in ``folder``.

    On errors no file stays open, and ``reader`` is still the caller's. Raises InvalidImage, Unsupported, or
    SourceUnavailable when a file cannot be read.
    """
    with contextlib.ExitStack() as opened:
        listing = Listing(reader, folder, opened)
        for extent in descriptor.extents:
            listing.add(extent)
        opened.pop_all()
    return listing


class Listing:
    """The extents of a descriptor, opened one after the other; ``opened`` closes their readers."""

    def __init__(self, reader: ByteReader, folder: Path, opened: contextlib.ExitStack) -> None:
        self.readers: list[ByteReader] = [reader]
        self.pieces: list[Piece] = []
        self.decoded_size_max = 0
        self._name = reader.name
        self._opened = opened
        self._indexes: dict[str, int] = {}
        self._base = 0
        try:
            self._folder = folder.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise SourceUnavailable(f"--extent-dir {shown(str(folder))} cannot be read: {error}") from error

    def add(self, extent: ListedExtent) -> None:
        """Take the next extent of the disk."""
        base = self._base
        self._base += extent.size
        if extent.file_name is None:
            self.pieces.append(_Zeros(base, extent.size))
            return
        index = self._open(extent.file_name)
        if extent.kind in ("FLAT", "VMFS"):
            self._add_flat(extent, index, base)
        else:
            self._add_sparse(extent, index, base)

    def _add_flat(self, extent: ListedExtent, index: int, base: int) -> None:
        reader = self.readers[index]
        check_inside(reader, extent.file_offset, extent.size, "an extent")
        self.pieces.append(_Flat(reader, extent, index=index, base=base))

    def _add_sparse(self, extent: ListedExtent, index: int, base: int) -> None:
        reader = self.readers[index]
        header = _read_piece(reader, extent)
        # Some writers round the capacity of a file up to whole grains.
        if not header.capacity - header.grain_size < extent.size <= header.capacity:
            raise InvalidImage(
                f"{reader.name} has a capacity of {header.capacity} bytes, but {self._name} lists it with {extent.size}"
            )
        if header.compressed:
            if base % header.grain_size:
                raise Unsupported(
                    f"{reader.name}: compressed grains that lie at part of a grain of the disk are not read"
                )
            self.decoded_size_max = max(self.decoded_size_max, header.grain_size)
        self.pieces.append(Grains(reader, header, index=index, base=base, size=extent.size))

    def _open(self, file_name: str) -> int:
        """Return the index of the reader of ``file_name``, a name that the image says."""
        if file_name in self._indexes:
            return self._indexes[file_name]
        if file_name in (".", "..") or any(sign in file_name for sign in "/\\\0"):
            raise Unsupported(
                f"{self._name} names the extent {shown(file_name)}, which is no plain file name; files are looked for "
                f"in --extent-dir only"
            )
        try:
            path = (self._folder / file_name).resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise SourceUnavailable(
                f"the extent {shown(file_name)} of {self._name} is not in --extent-dir {shown(str(self._folder))}"
            ) from error
        if path.parent != self._folder and self._folder not in path.parents:
            raise Unsupported(f"the extent {shown(file_name)} of {self._name} is a link out of --extent-dir")
        reader = FileReader(path)
        self._opened.callback(reader.close)
        self.readers.append(reader)
        self._indexes[file_name] = len(self.readers) - 1
        return len(self.readers) - 1


def _read_piece(reader: ByteReader, extent: ListedExtent) -> SparseHeader:
    """Return the header of a sparse file that a descriptor lists."""
    magic = reader.read_at(0, min(len(MAGIC), reader.size))
    if extent.kind == "VMFSSPARSE" or magic == MAGIC_COWD:
        return read_header_cowd(reader)
    header = read_header(reader)
    text = read_descriptor(reader, header)
    if text is not None:
        parse_descriptor(reader.name, text)  # for the parent that it may need
    return header
