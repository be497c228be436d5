"""VhdSource: a VHD image, fixed or dynamic; of dynamic ones the block table and sector bitmaps become extents."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from dataplane.byte_reader import ByteReader
from dataplane.engine.batches import BatchBuilder
from dataplane.engine.block_map import add_vhd_sectors, vhd_blocks
from dataplane.errors import InvalidImage
from dataplane.formats.tables import ENTRIES_AT_ONCE, SpaceBudget, add_plain, batches_of, faults_of, new_rows
from dataplane.formats.vhd_header import VhdDynamic, VhdFooter, read_dynamic, read_footer
from dataplane.image_source import ImageSource
from dataplane.limits import SECTOR_SIZE
from dataplane.readers.gather import gather

_SECTORS_AT_ONCE = 1 << 16
"""Sectors whose bits are read at a time; when no two neighbours are alike each is a row."""


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
        rows = new_rows()
        return batches_of(rows, add_plain(rows, self.readers[0], 0, self.virtual_size), self.virtual_size)


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
        budget = SpaceBudget(self._reader)
        rows = new_rows(budget)
        return batches_of(rows, self._mapped(rows, budget), self.virtual_size)

    def _mapped(self, rows: BatchBuilder, budget: SpaceBudget) -> Iterator[int]:
        header = self._header
        count = -(-self.virtual_size // header.block_size)
        for first in range(0, count, ENTRIES_AT_ONCE):
            taken = min(ENTRIES_AT_ONCE, count - first)
            entries = self._reader.read_at(header.table_offset + 4 * first, 4 * taken)
            with faults_of(self._reader.name):
                blocks = vhd_blocks(
                    entries,
                    first,
                    block_size=header.block_size,
                    bitmap_size=header.bitmap_size,
                    disk_size=self.virtual_size,
                    file_size=self._reader.size,
                    allocation=budget.allocation,
                ).tolist()
            guests, places = blocks[::2], blocks[1::2]
            budget.take_ranges(places, header.bitmap_size, "blocks")
            yield from self._stored_sectors(rows, budget, guests, places)
            yield min((first + taken) * header.block_size, self.virtual_size)

    def _stored_sectors(
        self, rows: BatchBuilder, budget: SpaceBudget, guests: Sequence[int], places: Sequence[int]
    ) -> Iterator[int]:
        """Add rows for the blocks at ``guests`` of the disk, which are at ``places``, as their bitmaps say.

        Large blocks are taken in pieces, small ones several at a time.
        """
        bitmap_size, block_sectors = self._header.bitmap_size, self._header.block_size // SECTOR_SIZE
        sectors = min(block_sectors, _SECTORS_AT_ONCE)
        blocks_at_once = max(1, _SECTORS_AT_ONCE // block_sectors)
        for at in range(0, len(guests), blocks_at_once):
            group = slice(at, at + blocks_at_once)
            for sector in range(0, block_sectors, sectors):
                skipped = sector * SECTOR_SIZE
                inside = [guest + skipped for guest in guests[group] if guest + skipped < self.virtual_size]
                blocks = places[group][: len(inside)]
                if not inside:
                    break
                bits = gather(self._reader, [place + sector // 8 for place in blocks], -(-sectors // 8))
                named = add_vhd_sectors(
                    rows,
                    bits,
                    array("q", inside),
                    array("q", [place + bitmap_size + skipped for place in blocks]),
                    sectors=sectors,
                    disk_size=self.virtual_size,
                )
                budget.take(named, "blocks")
                yield min(inside[-1] + sectors * SECTOR_SIZE, self.virtual_size)
