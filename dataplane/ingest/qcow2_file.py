"""A qcow2 file being written: where clusters go, and the tables that say so. Data is written by others."""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Sequence

from dataplane.engine.blockio import write_ranges
from dataplane.formats.qcow2_layout import COPIED, REFCOUNT_MAX, Qcow2Layout


class Qcow2File:
    """Hands out places in the file in disk order; tables are written as they fill, the header last of all.

    One L2 table is in memory at a time, beside the L1 table and two bytes for each cluster of the file. Not safe for
    concurrent use. Methods raise OSError.
    """

    def __init__(self, fd: int, layout: Qcow2Layout, *, zstd: bool) -> None:
        self._fd = fd
        self._layout = layout
        self._zstd = zstd
        self._cluster_size = layout.cluster_size
        self._bits = layout.cluster_bits
        self._l1 = array("Q", bytes(8 * layout.l1_entries))
        self._table = -1  # number of the L2 table in memory
        self._l2 = array("Q")
        self._references = array("H", [1]) * (layout.data_offset >> self._bits)  # of each cluster of the file
        self._packed = self._packed_end = 0  # where compressed clusters go on, one behind the other

    def place(self, clusters: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Return where in the file to write clusters of the disk, given in order, that have so many bytes encoded.

        The length of a whole cluster stands for one that is not compressed.
        """
        offsets = []
        for cluster, length in zip(clusters, lengths, strict=True):
            table, entry = divmod(cluster, self._layout.l2_entries)
            if table != self._table:
                self._begin_table(table)
            if length == self._cluster_size:
                offset = self._new_cluster()
                self._l2[entry] = COPIED | offset
            else:
                offset = self._place_packed(length)
                self._l2[entry] = self._layout.compressed_entry(offset, length)
            offsets.append(offset)
        return offsets

    def finish(self) -> None:
        """Write the tables and the header. The size of the file is a whole number of clusters then."""
        self._write_table()
        self._write(self._layout.l1_offset, big_endian(self._l1))
        used = len(self._references)
        blocks, tables = self._layout.refcount_room(used)
        self._references.extend([1] * (blocks + tables))
        blocks_at = used << self._bits
        table_at = (used + blocks) << self._bits
        os.ftruncate(self._fd, len(self._references) << self._bits)
        self._write(blocks_at, big_endian(self._references))
        self._write(table_at, big_endian(array("Q", [blocks_at + (n << self._bits) for n in range(blocks)])))
        self._write(0, self._layout.header(table_at, tables, zstd=self._zstd))

    def _new_cluster(self) -> int:
        self._references.append(1)
        return (len(self._references) - 1) << self._bits

    def _place_packed(self, length: int) -> int:
        """Return a place for compressed bytes: behind the last ones, going on into the next cluster if that is free."""
        full = self._packed < self._packed_end and self._references[self._packed >> self._bits] == REFCOUNT_MAX
        if full or self._packed + length > self._packed_end:
            at_end = self._packed_end == len(self._references) << self._bits
            if full or not at_end:
                self._packed = len(self._references) << self._bits
            self._references.append(0)
            self._packed_end = len(self._references) << self._bits
        offset = self._packed
        self._packed += length
        for cluster in range(offset >> self._bits, ((self._packed - 1) >> self._bits) + 1):
            self._references[cluster] += 1
        return offset

    def _begin_table(self, table: int) -> None:
        self._write_table()
        self._table = table
        self._l2 = array("Q", bytes(self._cluster_size))
        self._l1[table] = COPIED | self._new_cluster()

    def _write_table(self) -> None:
        if self._table >= 0:
            self._write(self._l1[self._table] ^ COPIED, big_endian(self._l2))

    def _write(self, offset: int, data: bytes) -> None:
        write_ranges(self._fd, memoryview(array("q", (offset, len(data), 0))).cast("B").cast("q", (1, 3)), data)


def big_endian(numbers: array[int]) -> bytes:
    """Return numbers as the format keeps them."""
    if sys.byteorder == "little":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()
