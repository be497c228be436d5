"""VhdxSource: a VHDX image without a parent; its block allocation table becomes extents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dataplane.byte_reader import ByteReader
from dataplane.formats.batches import Rows
from dataplane.formats.tables import (
    ENTRIES_AT_ONCE,
    Known,
    Numbers,
    SpaceBudget,
    batches_of,
    check_all,
    data_rows,
    make_zero,
)
from dataplane.formats.vhdx_header import VhdxHeader, read_header
from dataplane.image_source import ImageSource
from dataplane.limits import MIB

_STATE_MASK = np.uint64(7)
_RESERVED = np.uint64(0xFFFF8)
_MIB_SHIFT = np.uint64(20)  # offsets in the table count MiB

# States of a block; 5 is what drafts of the format used for 3.
_NOT_PRESENT, _UNDEFINED, _ZERO, _UNMAPPED, _UNMAPPED_DRAFT, _PRESENT = 0, 1, 2, 3, 5, 6
_ABSENT_STATES = (_NOT_PRESENT, _UNDEFINED, _UNMAPPED, _UNMAPPED_DRAFT)


def open_vhdx(reader: ByteReader) -> ImageSource:
    """Return the VHDX image in ``reader``, which ``close`` of the result closes.

    On errors ``reader`` is still the caller's. Raises InvalidImage or Unsupported.
    """
    return VhdxSource(reader, read_header(reader))


class VhdxSource(ImageSource):
    """A VHDX image, dynamic or fixed; both are read alike."""

    format = "vhdx"

    def __init__(self, reader: ByteReader, header: VhdxHeader) -> None:
        """Take over ``reader``, whose ``header`` is checked."""
        self.readers = (reader,)
        self.virtual_size = header.virtual_size
        self._reader = reader
        self._header = header

    def extents(self) -> Iterator[memoryview]:
        """Yield batches while the block allocation table is read, 512 KiB of it at a time.

        Raises InvalidImage when an entry breaks the rules of the format, points outside the file, or blocks overlap.
        """
        return batches_of(self._known(), self.virtual_size)

    def _known(self) -> Iterator[Known]:
        header, budget = self._header, SpaceBudget(self._reader)
        for first in range(0, header.block_count, ENTRIES_AT_ONCE):
            blocks = np.arange(first, min(first + ENTRIES_AT_ONCE, header.block_count), dtype=np.int64)
            places = blocks + blocks // header.chunk_blocks
            start, end = int(places[0]), int(places[-1]) + 1
            held = self._reader.read_at(header.bat_offset + 8 * start, 8 * (end - start))
            entries = np.frombuffer(held, dtype="<u8").astype(np.uint64)[places - start]
            rows = self._rows(blocks * header.block_size, entries, budget)
            yield rows, min((first + len(blocks)) * header.block_size, header.virtual_size)

    def _rows(self, guests: Numbers, entries: npt.NDArray[np.uint64], budget: SpaceBudget) -> Rows:
        """Return a row for each block that is ZERO or DATA; ``guests`` has their offsets on the disk."""
        name = self._reader.name
        state = (entries & _STATE_MASK).astype(np.int64)
        zero, present = state == _ZERO, state == _PRESENT
        known = zero | present | np.isin(state, _ABSENT_STATES)
        check_all(name, ~known, guests, "the block for offset {} has a state that a disk without parent cannot have")
        check_all(name, (entries & _RESERVED) != 0, guests, "the table entry for offset {} has reserved bits set")
        lengths = np.minimum(self._header.block_size, self.virtual_size - guests)
        # Compared in MiB first: in bytes an entry may say more than 63 bits hold.
        mebibytes = entries >> _MIB_SHIFT
        outside = present & (mebibytes > np.uint64(self._reader.size // MIB))
        hosts = np.where(present & ~outside, mebibytes, np.uint64(1)).astype(np.int64) * MIB
        outside |= present & (hosts > self._reader.size - lengths)
        problem = "the block for offset {} is not in the file, which is cut short or damaged"
        check_all(name, outside, guests, problem)
        check_all(name, present & (hosts == 0), guests, "the block for offset {} lies in the header section")
        budget.take(int(lengths[present].sum()), "blocks")
        rows = data_rows(guests, lengths, hosts)
        make_zero(rows, zero)
        mapped: Rows = rows[zero | present]
        return mapped
