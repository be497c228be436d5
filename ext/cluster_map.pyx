# cython: boundscheck=True
"""qcow2's two levels of tables, standard and extended, checked entry by entry and turned into rows of extents."""

from array import array

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memset

from table_bytes cimport big64

from dataplane._native.allocation cimport Allocation
from dataplane._native.batches cimport BatchBuilder, append_data, append_zero
from dataplane._native.plan cimport DATA_EXTENT, ExtentRow

from dataplane._native.batches import MapFault

cdef enum:
    SECTOR_SIZE = 512
    SUBCLUSTERS = 32

cdef uint64_t OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
cdef uint64_t L1_RESERVED = 0x7F00_0000_0000_01FF
cdef uint64_t L2_RESERVED = 0x3F00_0000_0000_01FE
cdef uint64_t COPIED = <uint64_t> 1 << 63
cdef uint64_t COMPRESSED = <uint64_t> 1 << 62
cdef uint64_t IS_ZERO = 1
cdef uint64_t ALL = 0xFFFF_FFFF  # of the subclusters


cdef class ClusterMap:
    """Decodes the tables of one state of a disk into `rows`. Sizes are in bytes, and checked by the caller.

    Clusters of ``1 << cluster_bits`` bytes, at most 2 MiB, lie in reader `reader`, which has `data_size` bytes; a disk
    of `virtual_size`. `codec` is that of compressed clusters. `allows_zero` says whether standard entries may be zero
    clusters; `extended` whether entries have bitmaps of subclusters; `is_external` whether clusters lie in a data file
    at the offsets of the disk; `elsewhere` is what to say of a cluster that is not there.

    `data_bytes` counts the bytes of data that the file has for plain clusters, and `compressed` the compressed ones
    that were added.
    """

    cdef BatchBuilder rows
    cdef int cluster_bits
    cdef int64_t cluster_size
    cdef int64_t virtual_size
    cdef int64_t data_size
    cdef int reader
    cdef int codec
    cdef bint allows_zero
    cdef bint extended
    cdef bint is_external
    cdef str elsewhere
    cdef readonly int64_t data_bytes
    cdef readonly int64_t compressed

    def __cinit__(self, BatchBuilder rows not None, *, int cluster_bits, int64_t virtual_size, int64_t data_size,
                  int reader, int codec, bint allows_zero, bint extended, bint is_external, str elsewhere not None):
        if not 9 <= cluster_bits <= 21 or not 0 <= virtual_size <= <int64_t> 1 << 51 or data_size < 0 or reader < 0:
            raise ValueError(f"no map of clusters of 2^{cluster_bits} bytes, a disk of {virtual_size} bytes, "
                             f"a file of {data_size} bytes and reader {reader}")
        self.rows = rows
        self.cluster_bits = cluster_bits
        self.cluster_size = <int64_t> 1 << cluster_bits
        self.virtual_size = virtual_size
        self.data_size = data_size
        self.reader = reader
        self.codec = codec
        self.allows_zero = allows_zero
        self.extended = extended
        self.is_external = is_external
        self.elsewhere = elsewhere

    def tables(self, const uint8_t[::1] entries not None, int64_t first, int64_t file_size,
               Allocation allocation=None) -> memoryview:
        """Return (index, offset in the file) of the tables that a slice of the L1 table names, as flat int64 pairs.

        `first` is the index of the slice's first entry; tables lie in a file of `file_size` bytes. Those in a hole of
        the file, as its `allocation` says, name nothing and are left out. Raises MapFault.
        """
        cdef object found = array("q")
        cdef int64_t offset
        cdef uint64_t entry
        cdef Py_ssize_t i
        for i in range(entries.shape[0] // 8):
            entry = big64(entries, i)
            if entry == 0:
                continue
            if entry & L1_RESERVED:
                raise MapFault(f"L1 entry {first + i} has reserved bits set")
            offset = <int64_t> (entry & OFFSET_MASK)
            if offset == 0:
                continue  # bit 63 alone points nowhere
            if offset & (self.cluster_size - 1):
                raise MapFault(f"L1 entry {first + i} does not point at a cluster")
            if offset > file_size - self.cluster_size:
                raise MapFault(f"the L2 table of L1 entry {first + i} is not in the file, which is cut short or "
                               "damaged")
            if allocation is not None and not allocation.data_in(offset, self.cluster_size):
                continue
            found.append(first + i)
            found.append(offset)
        return memoryview(found)

    def add(self, const int64_t[::1] guests not None, const uint8_t[::1] held not None):
        """Add rows for pieces of L2 tables, which lie in `held` one behind the other.

        `guests` has the offset on the disk of each piece's first cluster, ascending. Entries behind the end of the
        disk mean nothing. Raises MapFault, and ValueError when the arguments do not fit each other.
        """
        cdef Py_ssize_t words = 2 if self.extended else 1
        cdef Py_ssize_t piece_entries
        cdef Py_ssize_t piece
        cdef Py_ssize_t i
        cdef int64_t guest
        cdef uint64_t entry
        if guests.shape[0] == 0 or held.shape[0] % (8 * words * guests.shape[0]):
            raise ValueError(f"{held.shape[0]} bytes are not {guests.shape[0]} pieces of tables")
        piece_entries = held.shape[0] // (8 * words * guests.shape[0])
        for piece in range(guests.shape[0]):
            guest = guests[piece]
            for i in range(piece * piece_entries, (piece + 1) * piece_entries):
                if guest >= self.virtual_size:
                    break
                entry = big64(held, words * i)
                if self.extended:
                    self.add_extended(guest, entry, big64(held, words * i + 1))
                elif entry != 0:
                    self.add_standard(guest, entry)
                guest += self.cluster_size

    cdef int add_standard(self, int64_t guest, uint64_t entry) except -1:
        cdef int64_t host
        if entry & COMPRESSED:
            return self.add_compressed(guest, entry)
        if entry & L2_RESERVED:
            return self.fault(guest, "has reserved bits set in its L2 entry")
        if entry & IS_ZERO and not self.allows_zero:
            return self.fault(guest, "is a zero cluster, which version 2 does not have")
        host = self.place(guest, entry)
        if entry & IS_ZERO:
            return append_zero(self.rows, guest, min(self.cluster_size, self.virtual_size - guest))
        if host < 0:
            return 0
        return self.add_plain(guest, host, self.cluster_size)

    cdef int add_extended(self, int64_t guest, uint64_t entry, uint64_t bitmap) except -1:
        cdef uint64_t allocated = bitmap & ALL
        cdef uint64_t zeroed = bitmap >> SUBCLUSTERS
        cdef int64_t part_size = self.cluster_size // SUBCLUSTERS
        cdef int64_t host
        cdef int part
        if entry & COMPRESSED:
            return self.add_compressed(guest, entry)
        if entry & (L2_RESERVED | IS_ZERO):
            return self.fault(guest, "has reserved bits set in its L2 entry")
        host = self.place(guest, entry)
        if allocated & zeroed:
            return self.fault(guest, "has subclusters that are allocated and zero at once")
        if host < 0 and allocated:
            return self.fault(guest, "has allocated subclusters and no place in the file")
        if allocated == ALL:
            return self.add_plain(guest, host, self.cluster_size)
        if zeroed == ALL:
            return append_zero(self.rows, guest, min(self.cluster_size, self.virtual_size - guest))
        for part in range(SUBCLUSTERS):
            if guest >= self.virtual_size:
                break
            if allocated >> part & 1:
                self.add_plain(guest, host + part * part_size, part_size)
            elif zeroed >> part & 1:
                append_zero(self.rows, guest, min(part_size, self.virtual_size - guest))
            guest += part_size
        return 0

    cdef int64_t place(self, int64_t guest, uint64_t entry) except -2:
        """Return where the cluster of an entry lies, or -1 when it has none."""
        cdef int64_t host = <int64_t> (entry & OFFSET_MASK)
        if host & (self.cluster_size - 1):
            return self.fault(guest, "does not begin at a cluster of the file")
        # In a data file the first cluster lies at 0.
        if host == 0 and not (self.is_external and entry & COPIED):
            return -1
        if self.is_external and host != guest:
            return self.fault(guest, "is not at that offset of the external data file")
        return host

    cdef int add_plain(self, int64_t guest, int64_t host, int64_t size) except -1:
        """Add a cluster or subcluster; what lies behind the end of the disk need not be there."""
        cdef int64_t length = min(size, self.virtual_size - guest)
        if host > self.data_size - length:
            return self.fault(guest, self.elsewhere)
        self.data_bytes += append_data(self.rows, guest, length, self.reader, host)
        return 0

    cdef int add_compressed(self, int64_t guest, uint64_t entry) except -1:
        cdef int offset_bits = 62 - (self.cluster_bits - 8)
        cdef uint64_t described = entry & ~(COMPRESSED | COPIED)
        cdef int64_t offset = <int64_t> (described & ((<uint64_t> 1 << offset_bits) - 1))
        cdef int64_t sectors = <int64_t> (described >> offset_bits) + 1
        cdef ExtentRow row
        if self.is_external:
            return self.fault(guest, "is compressed, which an external data file does not allow")
        if offset >= self.data_size:
            return self.fault(guest, "is compressed and not in the file, which is cut short")
        memset(&row, 0, sizeof(row))
        row.offset = guest
        row.length = min(self.cluster_size, self.virtual_size - guest)
        row.kind = DATA_EXTENT
        row.codec = self.codec
        row.reader = self.reader
        row.source_offset = offset
        # A bound, in sectors; the last sector of the last cluster need not be wholly there.
        row.source_length = min(sectors * SECTOR_SIZE - offset % SECTOR_SIZE, self.data_size - offset)
        row.decoded_length = self.cluster_size
        self.compressed += 1
        return self.rows.append(&row)

    cdef int fault(self, int64_t guest, str problem) except -1:
        raise MapFault(f"the cluster for offset {guest} of the disk {problem}")
