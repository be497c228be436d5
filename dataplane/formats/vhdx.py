"""VhdxSource: a VHDX image without a parent; its block allocation table becomes extents."""

from __future__ import annotations

from collections.abc import Iterator

from dataplane.byte_reader import ByteReader
from dataplane.engine.batches import BatchBuilder
from dataplane.engine.block_map import add_vhdx_blocks
from dataplane.formats.tables import ENTRIES_AT_ONCE, SpaceBudget, batches_of, faults_of, new_rows
from dataplane.formats.vhdx_header import VhdxHeader, read_header
from dataplane.image_source import ImageSource


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
        budget = SpaceBudget(self._reader)
        rows = new_rows(budget)
        return batches_of(rows, self._mapped(rows, budget), self.virtual_size)

    def _mapped(self, rows: BatchBuilder, budget: SpaceBudget) -> Iterator[int]:
        header = self._header
        for first in range(0, header.block_count, ENTRIES_AT_ONCE):
            behind = min(first + ENTRIES_AT_ONCE, header.block_count)
            start, end = header.entry_of(first), header.entry_of(behind - 1) + 1
            entries = self._reader.read_at(header.bat_offset + 8 * start, 8 * (end - start))
            with faults_of(self._reader.name):
                named = add_vhdx_blocks(
                    rows,
                    entries,
                    first,
                    block_size=header.block_size,
                    chunk_blocks=header.chunk_blocks,
                    disk_size=header.virtual_size,
                    file_size=self._reader.size,
                )
            budget.take(named, "blocks")
            yield min(behind * header.block_size, header.virtual_size)
