"""VhdSource: a VHD image, fixed or dynamic; of dynamic ones the block table and sector bitmaps become extents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dataplane.byte_reader import ByteReader
from dataplane.errors import InvalidImage
from dataplane.formats.batches import empty_rows
from dataplane.formats.tables import (
    ENTRIES_AT_ONCE,
    Known,
    Numbers,
    SpaceBudget,
    batches_of,
    check_all,
    data_rows,
    make_zero,
    plain_rows,
)
from dataplane.formats.vhd_header import VhdDynamic, VhdFooter, read_dynamic, read_footer
from dataplane.image_source import ImageSource
from dataplane.limits import SECTOR_SIZE
from dataplane.readers.gather import gather

_ABSENT = 0xFFFFFFFF

_PIECE_SECTORS_MAX = 1 << 16
"""Sectors of a block whose bits are read at a time."""

_SECTORS_AT_ONCE = 1 << 21
"""Bits of bitmaps in memory at a time, a byte each: 2 MiB."""


def open_vhd(reader: ByteReader) -> ImageSource:
    """Return the VHD image in ``reader``, which ``close`` of the result closes.

    On errors ``reader`` is still the caller's. Raises InvalidImage or Unsupported.
    """
    footer = read_footer(reader)
    if not footer.is_fixed:
        return DynamicVhdSource(reader, footer, read_dynamic(reader, footer))
    if footer.virtual_size > reader.size - footer.stored_size:
        raise InvalidImage(
            f"{reader.name} is cut short: a disk of {footer.virtual_size} bytes and the footer are more than its "
            f"{reader.size} bytes"
        )
    return FixedVhdSource(reader, footer)


class FixedVhdSource(ImageSource):
    """A fixed VHD: the disk as it is, and a footer behind it that is not part of it."""

    format = "vhd"

    def __init__(self, reader: ByteReader, footer: VhdFooter) -> None:
        """Take over ``reader``, which holds the whole disk that the checked ``footer`` tells of."""
        self.readers = (reader,)
        self.virtual_size = footer.virtual_size

    def extents(self) -> Iterator[memoryview]:
        """Yield batches; the map of holes is asked for lazily."""
        return batches_of(plain_rows(self.readers[0], 0, self.virtual_size), self.virtual_size)


class DynamicVhdSource(ImageSource):
    """A dynamic VHD: blocks at any place of the file, each with a bitmap of the sectors that are stored."""

    format = "vhd"

    def __init__(self, reader: ByteReader, footer: VhdFooter, header: VhdDynamic) -> None:
        """Take over ``reader``, whose ``footer`` and ``header`` are checked."""
        self.readers = (reader,)
        self.virtual_size = footer.virtual_size
        self._reader = reader
        self._header = header

    def extents(self) -> Iterator[memoryview]:
        """Yield batches while the block table and bitmaps are read, 256 KiB of each at a time.

        Raises InvalidImage when a block is not in the file or blocks overlap.
        """
        return batches_of(self._known(), self.virtual_size)

    def _known(self) -> Iterator[Known]:
        block_size, budget = self._header.block_size, SpaceBudget(self._reader)
        count = -(-self.virtual_size // block_size)
        for first in range(0, count, ENTRIES_AT_ONCE):
            taken = min(ENTRIES_AT_ONCE, count - first)
            table = self._reader.read_at(self._header.table_offset + 4 * first, 4 * taken)
            entries = np.frombuffer(table, dtype=">u4").astype(np.int64)
            present = np.flatnonzero(entries != _ABSENT)
            guests = (first + present) * block_size
            hosts = entries[present] * SECTOR_SIZE
            lengths = np.minimum(block_size, self.virtual_size - guests)
            outside = hosts > self._reader.size - self._header.bitmap_size - lengths
            problem = "the block for offset {} is not in the file, which is cut short or damaged"
            check_all(self._reader.name, outside, guests, problem)
            budget.take(int(lengths.sum()) + len(present) * self._header.bitmap_size, "blocks")
            yield from self._stored_sectors(guests, hosts)
            yield empty_rows(), min((first + taken) * block_size, self.virtual_size)

    def _stored_sectors(self, guests: Numbers, hosts: Numbers) -> Iterator[Known]:
        """Yield rows for the blocks at ``guests`` of the disk, whose bitmaps are at ``hosts``, as their bits say."""
        block_sectors = self._header.block_size // SECTOR_SIZE
        piece_sectors = min(block_sectors, _PIECE_SECTORS_MAX)
        pieces = block_sectors // piece_sectors
        blocks_at_once = max(1, _SECTORS_AT_ONCE // block_sectors)
        pieces_at_once = _SECTORS_AT_ONCE // piece_sectors
        for at in range(0, len(guests), blocks_at_once):
            group = slice(at, at + blocks_at_once)
            for begin in range(0, pieces, pieces_at_once):
                numbers = np.arange(begin, min(begin + pieces_at_once, pieces), dtype=np.int64)
                offsets = guests[group, None] + numbers * (piece_sectors * SECTOR_SIZE)
                bitmaps = hosts[group, None] + numbers * (piece_sectors // 8)
                data = hosts[group, None] + self._header.bitmap_size + numbers * (piece_sectors * SECTOR_SIZE)
                inside = (offsets < self.virtual_size).reshape(-1)
                flat = (offsets.reshape(-1)[inside], bitmaps.reshape(-1)[inside], data.reshape(-1)[inside])
                yield from self._runs(*flat, piece_sectors)

    def _runs(self, guests: Numbers, bitmaps: Numbers, data: Numbers, sectors: int) -> Iterator[Known]:
        """Yield a row for each run of equal bits of pieces of ``sectors`` sectors, a few MiB of rows at a time."""
        if not len(guests):
            return
        held = gather(self._reader, bitmaps.tolist(), -(-sectors // 8))
        # The most significant bit of a byte stands for its first sector. A block below 8 sectors uses a part of one.
        bits = np.unpackbits(np.frombuffer(held, dtype=np.uint8)).reshape(len(guests), -1)[:, :sectors]
        changes = np.ones(bits.shape, dtype=np.bool_)
        np.not_equal(bits[:, 1:], bits[:, :-1], out=changes[:, 1:])
        starts = np.flatnonzero(changes)
        zero = bits.reshape(-1)[starts] == 0
        for at in range(0, len(starts), ENTRIES_AT_ONCE):
            part = starts[at : at + ENTRIES_AT_ONCE]
            behind = starts[at + 1 : at + 1 + ENTRIES_AT_ONCE]
            ends = behind if len(behind) == len(part) else np.append(behind, bits.size)
            piece, sector = np.divmod(part, sectors)
            offsets = guests[piece] + sector * SECTOR_SIZE
            lengths = np.minimum((ends - part) * SECTOR_SIZE, self.virtual_size - offsets)
            rows = data_rows(offsets, lengths, data[piece] + sector * SECTOR_SIZE)
            make_zero(rows, zero[at : at + ENTRIES_AT_ONCE])
            rows = rows[lengths > 0]
            if len(rows):
                yield rows, int(rows[-1, :2].sum())
