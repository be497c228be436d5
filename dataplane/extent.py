"""Extents: what a format says about where an image's logical bytes are, in a form the engine executes.

A format yields *batches*. A batch is a C-contiguous ``memoryview`` of signed 64-bit integers with shape
``(n, len(COLUMNS))``, one row for each extent; numpy arrays and ``array.array`` both provide it without a copy, and
native code reads it without touching a Python object. ``Extent`` is the same row as a value, for people and tests.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from enum import IntEnum

from dataplane.hints import NamedTuple
from dataplane.limits import MIB

WINDOW_SIZE = 4 * MIB
"""Source bytes that one thread claims at a time; every batch but the last ends on a multiple of it."""


class ExtentKind(IntEnum):
    """What a run of logical bytes is; values are part of the engine's contract."""

    HOLE = 0  # never allocated, reads as zeros
    ZERO = 1  # allocated, reads as zeros
    DATA = 2  # stored somewhere


class ExtentCodec(IntEnum):
    """How the bytes of a DATA extent are stored at their source; values are part of the engine's contract."""

    RAW = 0
    DEFLATE = 1  # raw deflate, RFC 1951 (qcow2 compressed clusters)
    ZLIB = 2  # zlib wrapper, RFC 1950 (VMDK streamOptimized grains)
    ZSTD = 3  # one zstd frame, RFC 8878


class Extent(NamedTuple):
    """A run of an image's logical bytes that share one kind and one place. Offsets and lengths are in bytes.

    ``offset``, ``length`` place the run on the logical disk. For a DATA extent ``reader`` is an index into the
    source's ``readers``, and the bytes are ``source_length`` bytes from ``source_offset`` there:

    * RAW: ``source_length == length``; ``decoded_offset`` and ``decoded_length`` are 0.
    * compressed: they decode to exactly ``decoded_length`` bytes (at most ``limits.DECODED_SIZE_MAX``), of which
      this run is ``length`` bytes from ``decoded_offset``. ``source_length`` is an upper bound: decoding stops when
      ``decoded_length`` bytes are there, and bytes behind the compressed stream are ignored.

    For HOLE and ZERO everything after ``kind`` is 0.
    """

    offset: int
    length: int
    kind: int
    codec: int = 0
    reader: int = 0
    source_offset: int = 0
    source_length: int = 0
    decoded_offset: int = 0
    decoded_length: int = 0


COLUMNS = Extent._fields
COLUMN_COUNT = len(COLUMNS)


def pack_batch(extents: Iterable[Extent]) -> memoryview:
    """Return the batch that holds ``extents``, in their order; raises ValueError when there are none."""
    flat = array("q")
    for extent in extents:
        flat.extend(extent)
    if not flat:
        raise ValueError("a batch holds at least one extent")
    return memoryview(flat).cast("B").cast("q", (len(flat) // COLUMN_COUNT, COLUMN_COUNT))


def unpack_batch(batch: memoryview) -> Iterator[Extent]:
    """Yield the rows of ``batch`` as values."""
    flat = batch.cast("B").cast("q")
    for at in range(0, len(flat), COLUMN_COUNT):
        yield Extent(*flat[at : at + COLUMN_COUNT])
