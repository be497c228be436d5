"""Qcow2Source: one qcow2 image, without the images below it; its two levels of tables become extents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dataplane.byte_reader import ByteReader
from dataplane.errors import InvalidImage, Unsupported, UsageError
from dataplane.formats.batches import Batcher, Rows, empty_rows
from dataplane.formats.qcow2_entries import (
    OFFSET_MASK,
    SUBCLUSTERS,
    Entries,
    EntryDecoder,
    Offsets,
)
from dataplane.formats.qcow2_header import read_header, rounded_size
from dataplane.formats.qcow2_snapshots import find_snapshot
from dataplane.formats.tables import Flags, SpaceBudget, zero_row
from dataplane.image_source import ImageSource
from dataplane.readers.gather import gather

_ENTRIES_AT_ONCE = 1 << 16
"""Entries of the L1 table, and of L2 tables, in memory at a time: 512 KiB; with numpy's temporaries about 20 MiB."""

_ENTRIES_AT_ONCE_MIN = 1 << 12

_L1_RESERVED = np.uint64(0x7F00_0000_0000_01FF)


class Qcow2Source(ImageSource):
    """A qcow2 image of version 2 or 3: its active disk or the one that an internal snapshot keeps.

    ``virtual_size`` is the state's, rounded up to 512 bytes; what rounding adds reads as zeros. Reads past the end
    of a file are never zeros: a table or cluster that is not wholly there makes the image invalid. What the image
    does not have is HOLE, whether or not another image lies below.
    """

    format = "qcow2"

    def __init__(self, reader: ByteReader, *, data_file: ByteReader | None = None, snapshot: str | None = None) -> None:
        """Read the header of ``reader``; ``close`` closes it and ``data_file``, which holds the clusters if given.

        ``snapshot`` is the id or name of an internal snapshot. Raises InvalidImage or Unsupported as ``read_header``
        does, Unsupported when the image needs a data file and none is given, UsageError when it has none or no such
        snapshot; the readers are then still the caller's.
        """
        header = self._header = read_header(reader)
        if header.has_data_file and data_file is None:
            raise Unsupported(
                f"{reader.name} keeps its data in an external data file, which is never opened because the image names "
                "it; give its path with --data-file"
            )
        if data_file is not None and not header.has_data_file:
            raise UsageError(f"{reader.name} is a qcow2 image without a data file; leave --data-file out")
        self._state = header.active if snapshot is None else find_snapshot(reader, header, snapshot)
        self._reader = reader
        self._data_file = data_file
        self.readers = (reader,) if data_file is None else (reader, data_file)
        self.virtual_size = rounded_size(self._state.virtual_size)
        # Whether any cluster is compressed is only known when the last table has been read.
        self.decoded_size_max = header.cluster_size
        self._entries_at_once = _ENTRIES_AT_ONCE

    @property
    def backing_name(self) -> str | None:
        """What the image calls the one below it, for messages only; None when it stands alone."""
        return self._header.backing_name

    @property
    def backing_format(self) -> str | None:
        """The format of the image below, as the header says; None when it does not."""
        return self._header.backing_format

    def share_memory(self, images: int) -> None:
        """Hold tables in pieces so small that ``images`` (a count) of these take about the memory of one."""
        self._entries_at_once = max(_ENTRIES_AT_ONCE_MIN, _ENTRIES_AT_ONCE // max(1, images))

    def extents(self) -> Iterator[memoryview]:
        """Yield batches while tables are read, a few hundred KiB of them at a time.

        Raises InvalidImage when a table breaks the rules of the format or points outside the file.
        """
        batcher = Batcher()
        for rows, known_end in self._mapped(self._decoder()):
            yield from batcher.add(rows, known_end)
        tail = empty_rows()
        if self.virtual_size > self._state.virtual_size:
            tail = zero_row(self._state.virtual_size, self.virtual_size - self._state.virtual_size)
        yield from batcher.finish(tail, self.virtual_size)

    def _decoder(self) -> EntryDecoder:
        budget = SpaceBudget(self._reader)
        return EntryDecoder(
            header=self._header,
            virtual_size=self._state.virtual_size,
            name=self._reader.name,
            data=self._data_file or self._reader,
            data_index=len(self.readers) - 1,
            table_budget=budget,
            data_budget=SpaceBudget(self._data_file) if self._data_file else budget,
        )

    def _mapped(self, decoder: EntryDecoder) -> Iterator[tuple[Rows, int]]:
        """Yield rows of mapped clusters, and up to where (bytes) everything is known with them."""
        header = self._header
        piece_entries = min(header.l2_entries, self._entries_at_once)
        pieces_at_once = max(1, self._entries_at_once // piece_entries)
        for first, entries in self._l1_slices():
            present = np.flatnonzero(entries)
            decoder.table_budget.take(len(present) * header.cluster_size, "L2 tables")
            tables = (entries[present] & OFFSET_MASK).astype(np.int64)
            bases = (first + present) * header.l2_span
            # Large tables come in several pieces, small ones several at a time.
            for at in range(0, len(present), pieces_at_once):
                group = slice(at, at + pieces_at_once)
                for inside in range(0, header.l2_entries, piece_entries):
                    places = tables[group] + inside * (header.cluster_size // header.l2_entries)
                    guests = bases[group] + inside * header.cluster_size
                    yield from self._pieces(guests, places, piece_entries, decoder)
            yield empty_rows(), min((first + len(entries)) * header.l2_span, self._state.virtual_size)

    def _l1_slices(self) -> Iterator[tuple[int, Entries]]:
        """Yield the L1 table in slices: the index of the first entry, and checked entries."""
        header = self._header
        needed = -(-self._state.virtual_size // header.l2_span)
        for first in range(0, needed, self._entries_at_once):
            count = min(self._entries_at_once, needed - first)
            table = self._reader.read_at(self._state.l1_offset + 8 * first, 8 * count)
            entries = np.frombuffer(table, dtype=">u8").astype(np.uint64)
            self._refuse(entries & _L1_RESERVED != 0, first, "L1 entry {} has reserved bits set")
            offsets = (entries & OFFSET_MASK).astype(np.int64)
            self._refuse(offsets % header.cluster_size != 0, first, "L1 entry {} does not point at a cluster")
            # Bit 63 alone points nowhere; an offset of 0 is an absent table.
            entries[offsets == 0] = 0
            self._refuse(
                offsets > self._reader.size - header.cluster_size,
                first,
                "the L2 table of L1 entry {} is not in the file, which is cut short or damaged",
            )
            yield first, entries

    def _pieces(
        self, bases: Offsets, places: Offsets, piece_entries: int, decoder: EntryDecoder
    ) -> Iterator[tuple[Rows, int]]:
        """Yield the rows of pieces of L2 tables at ``places`` in the file; their first clusters lie at ``bases``."""
        header = self._header
        inside = int(np.searchsorted(bases, self._state.virtual_size))
        bases, places = bases[:inside], places[:inside]
        if inside == 0:
            return
        words = 2 if header.has_subclusters else 1
        held = gather(self._reader, places.tolist(), piece_entries * 8 * words)
        entries = np.frombuffer(held, dtype=">u8").astype(np.uint64).reshape(-1, words)
        guests = (bases[:, None] + np.arange(piece_entries, dtype=np.int64) * header.cluster_size).reshape(-1)
        # Entries behind the end of the disk mean nothing.
        inside = int(np.searchsorted(guests, self._state.virtual_size))
        step = inside
        if header.has_subclusters and not _all_uniform(entries[:inside, 1]):
            step = max(1, self._entries_at_once // SUBCLUSTERS)
        for at in range(0, inside, step):
            guest, piece = guests[at : min(at + step, inside)], entries[at : min(at + step, inside)]
            bitmaps = piece[:, 1] if header.has_subclusters else None
            known_end = min(int(guest[-1]) + header.cluster_size, self._state.virtual_size)
            yield decoder.rows(guest, piece[:, 0], bitmaps), known_end

    def _refuse(self, wrong: Flags, first: int, problem: str) -> None:
        """Raise InvalidImage when any of ``wrong`` is set; ``problem`` has a place for the entry's index."""
        if wrong.any():
            raise InvalidImage(f"{self._reader.name}: {problem.format(first + int(np.argmax(wrong)))}")


def _all_uniform(bitmaps: Entries) -> bool:
    """Tell whether no cluster needs rows for its subclusters; those that are compressed have an empty bitmap."""
    full = np.uint64(0xFFFF_FFFF)
    return bool(np.all((bitmaps == 0) | (bitmaps == full) | (bitmaps == full << np.uint64(32))))
