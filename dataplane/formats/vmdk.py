"""VmdkSource: a VMDK image in one sparse file, or in the files that a descriptor lists, found in a given folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dataplane.byte_reader import ByteReader
from dataplane.engine.batches import BatchBuilder
from dataplane.errors import InvalidImage, Unsupported
from dataplane.formats.tables import SpaceBudget, batches_of, new_rows
from dataplane.formats.vmdk_descriptor import parse_descriptor
from dataplane.formats.vmdk_grains import Grains
from dataplane.formats.vmdk_header import MAGIC, MAGIC_COWD, read_descriptor, read_header
from dataplane.formats.vmdk_listing import Piece, open_listing
from dataplane.image_source import ImageSource
from dataplane.limits import DESCRIPTOR_SIZE_MAX

_MAGIC_SESPARSE = b"\xbe\xba\xfe\xca\x00\x00\x00\x00"

_ONE_FILE_TYPES = (None, "monolithicsparse", "streamoptimized")
"""What the descriptor inside a sparse file may say of a disk that is wholly in that file."""

_FLATTEN = "make one file of it: qemu-img convert -O qcow2"


class VmdkSource(ImageSource):
    """A VMDK image; made by ``open_vmdk``."""

    format = "vmdk"

    def __init__(
        self, readers: Sequence[ByteReader], pieces: Sequence[Piece], *, virtual_size: int, decoded_size_max: int
    ) -> None:
        """Take the pieces of a disk of ``virtual_size`` bytes, in its order; ``close`` closes ``readers``."""
        self.readers = tuple(readers)
        self.virtual_size = virtual_size
        self.decoded_size_max = decoded_size_max
        self._pieces = pieces

    def extents(self) -> Iterator[memoryview]:
        """Yield batches while tables are read, 256 KiB of them at a time.

        Raises InvalidImage when a table breaks the rules of the format or points outside its file.
        """
        rows = new_rows()
        return batches_of(rows, self._mapped(rows), self.virtual_size)

    def _mapped(self, rows: BatchBuilder) -> Iterator[int]:
        budgets: dict[int, SpaceBudget] = {}
        for piece in self._pieces:
            if piece.index not in budgets:
                budgets[piece.index] = SpaceBudget(self.readers[piece.index])
            yield from piece.add_rows(rows, budgets[piece.index])


def open_vmdk(reader: ByteReader, *, extent_dir: Path | None = None) -> ImageSource:
    """Return the VMDK image that begins in ``reader``, which ``close`` of the result closes.

    A text descriptor is followed only into ``extent_dir``: each file it names has to be in that folder, by a plain
    name. On errors ``reader`` is still the caller's. Raises InvalidImage, Unsupported, or SourceUnavailable when an
    extent's file cannot be read.
    """
    magic = reader.read_at(0, min(8, reader.size))
    if magic.startswith(MAGIC):
        return _open_sparse(reader)
    if magic.startswith(MAGIC_COWD):
        # Whether it is a whole disk or what has changed since a snapshot is told by a descriptor elsewhere.
        raise Unsupported(
            f"{reader.name} is a COWD extent, a part of a disk; give the descriptor of the disk with --extent-dir"
        )
    if magic == _MAGIC_SESPARSE:
        raise Unsupported(f"{reader.name} is an seSparse VMDK extent, which is not read; {_FLATTEN}")
    return _open_listed(reader, extent_dir)


def _open_sparse(reader: ByteReader) -> VmdkSource:
    """Return the disk that is in one sparse file."""
    header = read_header(reader)
    text = read_descriptor(reader, header)
    if text is None:
        # A piece of a split disk would pass for a short disk.
        raise Unsupported(
            f"{reader.name} is a sparse VMDK extent without a descriptor, a part of a disk; give the descriptor of "
            f"the disk with --extent-dir"
        )
    descriptor = parse_descriptor(reader.name, text)
    if descriptor.create_type not in _ONE_FILE_TYPES or len(descriptor.extents) > 1:
        raise Unsupported(f"{reader.name} is only a part of a disk of type {descriptor.create_type}; {_FLATTEN}")
    grains = Grains(reader, header, index=0, base=0, size=header.capacity)
    decoded_size_max = header.grain_size if header.compressed else 0
    return VmdkSource([reader], [grains], virtual_size=header.capacity, decoded_size_max=decoded_size_max)


def _open_listed(reader: ByteReader, extent_dir: Path | None) -> VmdkSource:
    """Return the disk whose text descriptor is ``reader``."""
    if reader.size > DESCRIPTOR_SIZE_MAX:
        raise InvalidImage(
            f"{reader.name} is no VMDK: it has no magic and is too long for a descriptor, "
            f"which has at most {DESCRIPTOR_SIZE_MAX} bytes"
        )
    descriptor = parse_descriptor(reader.name, reader.read_at(0, reader.size))
    if extent_dir is None:
        raise Unsupported(
            f"{reader.name} is a VMDK descriptor, and the disk is in the files it names; give their folder with "
            f"--extent-dir"
        )
    if not descriptor.extents:
        raise InvalidImage(f"{reader.name}: its descriptor lists no extents; it is cut short or damaged")
    listing = open_listing(reader, extent_dir, descriptor)
    return VmdkSource(
        listing.readers,
        listing.pieces,
        virtual_size=descriptor.virtual_size,
        decoded_size_max=listing.decoded_size_max,
    )
