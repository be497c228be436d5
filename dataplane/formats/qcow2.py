"""Qcow2Source: one qcow2 image, without the images below it; its two levels of tables become extents."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from dataplane.byte_reader import ByteReader
from dataplane.engine.allocation import Allocation
from dataplane.engine.batches import BatchBuilder
from dataplane.engine.cluster_map import ClusterMap
from dataplane.errors import Unsupported, UsageError
from dataplane.extent import ExtentCodec
from dataplane.formats.qcow2_header import Qcow2Header, read_header, rounded_size
from dataplane.formats.qcow2_snapshots import find_snapshot
from dataplane.formats.tables import SpaceBudget, add_zeros, batches_of, faults_of, new_rows
from dataplane.image_source import ImageSource
from dataplane.readers.gather import gather

_ENTRIES_AT_ONCE = 1 << 16
"""Entries of the L1 table, and rows of L2 tables, in memory at a time; with batches about 10 MiB."""

_ENTRIES_AT_ONCE_MIN = 1 << 12

_SUBCLUSTERS = 32

_COMPRESSED_SIZE_MIN = 4
_GAIN_MAX = {ExtentCodec.DEFLATE: 1040, ExtentCodec.ZSTD: 1 << 15}
"""Of a compressed cluster only a lower bound of its size is known: 4 bytes, and what no stream of its codec beats."""


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
        share = max(_ENTRIES_AT_ONCE_MIN, _ENTRIES_AT_ONCE // max(1, images))
        self._entries_at_once = 1 << (share.bit_length() - 1)  # tables are cut into equal pieces

    def extents(self) -> Iterator[memoryview]:
        """Yield batches while tables are read, a few hundred KiB of them at a time.

        Raises InvalidImage when a table breaks the rules of the format or points outside the file.
        """
        budgets = _Budgets(self._reader, self._data_file)
        rows = new_rows(budgets.data)
        return batches_of(rows, self._mapped(rows, budgets), self.virtual_size)

    def _mapped(self, rows: BatchBuilder, budgets: _Budgets) -> Iterator[int]:
        """Add rows of mapped clusters, and yield up to where (bytes) everything is there."""
        header, cluster_map = self._header, self._map(rows)
        # An extended entry may be a row for each of its subclusters.
        entries_at_once = self._entries_at_once // (_SUBCLUSTERS if header.has_subclusters else 1)
        piece_entries = min(header.l2_entries, entries_at_once)
        pieces_at_once = max(1, entries_at_once // piece_entries)
        entry_size = header.cluster_size // header.l2_entries
        for first, count, indexes, places in self._l1_slices(cluster_map, budgets.tables.allocation):
            budgets.tables.take_ranges(places, header.cluster_size, "L2 tables")
            # Large tables come in several pieces, small ones several at a time.
            for at in range(0, len(places), pieces_at_once):
                group = slice(at, at + pieces_at_once)
                for inside in range(0, header.l2_entries, piece_entries):
                    skipped = inside * header.cluster_size
                    guests = array("q", [index * header.l2_span + skipped for index in indexes[group]])
                    if guests[0] >= self._state.virtual_size:
                        break
                    held = gather(
                        self._reader,
                        [place + inside * entry_size for place in places[group]],
                        piece_entries * entry_size,
                    )
                    with faults_of(self._reader.name):
                        cluster_map.add(guests, held)
                    budgets.check(cluster_map, header)
                    yield min(guests[-1] + piece_entries * header.cluster_size, self._state.virtual_size)
            yield min((first + count) * header.l2_span, self._state.virtual_size)
        add_zeros(rows, self._state.virtual_size, self.virtual_size)

    def _map(self, rows: BatchBuilder) -> ClusterMap:
        header, data = self._header, self._data_file or self._reader
        elsewhere = "is not in the file, which is cut short"
        if self._data_file is not None:
            elsewhere = f"is not in the data file {data.name}, which is cut short"
        return ClusterMap(
            rows,
            cluster_bits=header.cluster_bits,
            virtual_size=self._state.virtual_size,
            data_size=data.size,
            reader=len(self.readers) - 1,
            codec=header.codec,
            allows_zero=header.version > 2,
            extended=header.has_subclusters,
            is_external=header.has_data_file,
            elsewhere=elsewhere,
        )

    def _l1_slices(
        self, cluster_map: ClusterMap, allocation: Allocation | None
    ) -> Iterator[tuple[int, int, list[int], list[int]]]:
        """Yield the L1 table in slices: first entry and count, and indexes and places of the tables it names."""
        needed = -(-self._state.virtual_size // self._header.l2_span)
        for first in range(0, needed, self._entries_at_once):
            count = min(self._entries_at_once, needed - first)
            table = self._reader.read_at(self._state.l1_offset + 8 * first, 8 * count)
            with faults_of(self._reader.name):
                found = cluster_map.tables(table, first, self._reader.size, allocation).tolist()
            yield first, count, found[::2], found[1::2]


class _Budgets:
    """What tables, and what clusters, may take of the files that hold them; they are one file unless there is a data
    file."""

    def __init__(self, reader: ByteReader, data_file: ByteReader | None) -> None:
        self.tables = SpaceBudget(reader)
        self.data = SpaceBudget(data_file) if data_file else self.tables
        self._data_bytes = self._compressed = 0

    def check(self, cluster_map: ClusterMap, header: Qcow2Header) -> None:
        """Count the clusters that were added since the last time; raises InvalidImage as SpaceBudget does."""
        self.data.take(cluster_map.data_bytes - self._data_bytes, "clusters")
        size_min = max(_COMPRESSED_SIZE_MIN, header.cluster_size // _GAIN_MAX[header.codec])
        self.data.take((cluster_map.compressed - self._compressed) * size_min, "compressed clusters")
        self._data_bytes, self._compressed = cluster_map.data_bytes, cluster_map.compressed
