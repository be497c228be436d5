# cython: boundscheck=True
"""Directories and grain tables of sparse VMDK extents, checked entry by entry and turned into rows of extents."""

from array import array

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memset

from table_bytes cimport little32

from dataplane._native.allocation cimport Allocation
from dataplane._native.batches cimport BatchBuilder, append_data, append_zero
from dataplane._native.codec cimport ZLIB
from dataplane._native.plan cimport DATA_EXTENT, ExtentRow

from dataplane._native.batches import MapFault

cdef enum:
    SECTOR_SIZE = 512
    ZERO_GRAIN = 1  # where no grain can be: the sector after the header's


cdef int by_value(const void* left, const void* right) noexcept nogil:
    cdef int64_t a = (<const int64_t*> left)[0]
    cdef int64_t b = (<const int64_t*> right)[0]
    return (a > b) - (a < b)


cdef class GrainMap:
    """Decodes the tables of one sparse extent into `rows`. Sizes are in bytes, and checked by the caller.

    The extent is `size` bytes of the disk from `base` on, in grains of `grain_size` (at most 1 GiB), `table_entries`
    of them in a table, and lies in reader `reader`, which has `file_size` bytes. `has_zero_grains` says whether an
    entry of 1 is a grain of zeros; `room_min` is how many bytes of the file a compressed grain has at the least, 0
    when grains are plain.
    """

    cdef BatchBuilder rows
    cdef int64_t base
    cdef int64_t size
    cdef int64_t grain_size
    cdef int64_t table_entries
    cdef int64_t file_size
    cdef int64_t room_min
    cdef int reader
    cdef bint has_zero_grains

    def __cinit__(self, BatchBuilder rows not None, *, int64_t base, int64_t size, int64_t grain_size,
                  int64_t table_entries, int reader, int64_t file_size, bint has_zero_grains, int64_t room_min):
        if not 0 < size <= <int64_t> 1 << 50 or not 0 <= base <= <int64_t> 1 << 50 or file_size < 0 or reader < 0 \
                or not SECTOR_SIZE <= grain_size <= 1 << 30 or not 1 <= table_entries <= 1 << 16 or room_min < 0:
            raise ValueError(f"no map of {size} bytes at {base} in grains of {grain_size} bytes, tables of "
                             f"{table_entries} entries and reader {reader}")
        self.rows = rows
        self.base = base
        self.size = size
        self.grain_size = grain_size
        self.table_entries = table_entries
        self.reader = reader
        self.file_size = file_size
        self.has_zero_grains = has_zero_grains
        self.room_min = room_min

    def tables(self, const uint8_t[::1] entries not None, int64_t first, Allocation allocation=None) -> memoryview:
        """Return (number, offset in the file) of the tables that a slice of the directory names, as flat int64 pairs.

        `first` is the number of the slice's first entry. Tables in a hole of the file name nothing and are left out.
        Raises MapFault.
        """
        cdef object found = array("q")
        cdef int64_t offset
        cdef Py_ssize_t i
        for i in range(entries.shape[0] // 4):
            offset = <int64_t> little32(entries, i) * SECTOR_SIZE
            if offset == 0:
                continue
            if offset > self.file_size - 4 * self.table_entries:
                raise MapFault(f"grain table {first + i} is not in the file, which is cut short or damaged")
            if allocation is not None and not allocation.data_in(offset, 4 * self.table_entries):
                continue
            found.append(first + i)
            found.append(offset)
        return memoryview(found)

    def grains(self, const int64_t[::1] numbers not None, const uint8_t[::1] held not None) -> memoryview:
        """Return (offset in the extent, offset in the file) of every grain in tables, as flat int64 pairs.

        Tables lie one behind the other in `held` and have these `numbers`, ascending. A grain of zeros has 0 as its
        place in the file. Raises MapFault, and ValueError when the arguments do not fit each other.
        """
        cdef object found = array("q")
        cdef Py_ssize_t table
        cdef Py_ssize_t i
        cdef int64_t guest
        cdef int64_t place
        cdef int64_t room
        cdef uint32_t entry
        if held.shape[0] != 4 * self.table_entries * numbers.shape[0]:
            raise ValueError(f"{held.shape[0]} bytes are not {numbers.shape[0]} grain tables")
        for table in range(numbers.shape[0]):
            guest = numbers[table] * self.table_entries * self.grain_size
            for i in range(self.table_entries):
                if guest >= self.size:
                    break  # entries behind the end of the disk mean nothing
                entry = little32(held, table * self.table_entries + i)
                if entry != 0:
                    place = <int64_t> entry * SECTOR_SIZE
                    room = self.room_min if self.room_min else min(self.grain_size, self.size - guest)
                    if entry == ZERO_GRAIN:
                        if not self.has_zero_grains:
                            raise self.fault(guest, "lies in the header, and the flag for zeroed grains is not set")
                        place = 0
                    elif place > self.file_size - room:
                        raise self.fault(guest, "is not in the file, which is cut short or damaged")
                    found.append(guest)
                    found.append(place)
                guest += self.grain_size
        return memoryview(found)

    def add_plain(self, const int64_t[::1] grains not None) -> int:
        """Add rows for `grains`, pairs of ``grains``; return how many bytes of data the file has for them."""
        cdef Py_ssize_t i
        cdef int64_t length
        cdef int64_t named = 0
        for i in range(grains.shape[0] // 2):
            length = min(self.grain_size, self.size - grains[2 * i])
            if grains[2 * i + 1] == 0:
                append_zero(self.rows, self.base + grains[2 * i], length)
            else:
                named += append_data(self.rows, self.base + grains[2 * i], length, self.reader, grains[2 * i + 1])
        return named

    def marked(self, const int64_t[::1] grains not None, const uint8_t[::1] markers not None) -> memoryview:
        """Return (offset in the file, length) of the compressed `grains` as the markers in front of them tell, as flat
        int64 pairs, one for each grain that is not zeros.

        A marker is the grain's first sector on the disk, 8 bytes, and a length, 4 bytes; they lie in `markers` one
        behind the other. Raises MapFault.
        """
        cdef object found = array("q")
        cdef Py_ssize_t i
        cdef Py_ssize_t marker = 0
        cdef int64_t start
        cdef int64_t length
        for i in range(grains.shape[0] // 2):
            if grains[2 * i + 1] == 0:
                continue
            if little32(markers, 3 * marker) != <uint64_t> (grains[2 * i] // SECTOR_SIZE) & 0xFFFF_FFFF \
                    or little32(markers, 3 * marker + 1) != <uint64_t> (grains[2 * i] // SECTOR_SIZE) >> 32:
                raise self.fault(grains[2 * i], "has the marker of another place of the disk")
            length = little32(markers, 3 * marker + 2)
            start = grains[2 * i + 1] + 12
            if length == 0 or length > 2 * self.grain_size:
                raise self.fault(grains[2 * i], "has a marker of an impossible size")
            if start > self.file_size - length:
                raise self.fault(grains[2 * i], "ends behind the file, which is cut short")
            found.append(start)
            found.append(length)
            marker += 1
        return memoryview(found)

    def bounded(self, const int64_t[::1] grains not None, int64_t marker_size) -> memoryview:
        """Return what ``marked`` does without a look at the markers: a grain ends where the next one in the file
        begins, or after twice its plain size. `marker_size` bytes in front of each are skipped. Raises MapFault."""
        cdef object found = array("q")
        cdef object sorted_places = array("q", bytes(8 * (grains.shape[0] // 2 + 1)))
        cdef int64_t[::1] places = sorted_places
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t i
        cdef Py_ssize_t low
        cdef Py_ssize_t high
        cdef int64_t length
        for i in range(grains.shape[0] // 2):
            if grains[2 * i + 1] != 0:
                places[count] = grains[2 * i + 1]
                count += 1
        places[count] = self.file_size
        qsort(&places[0], count, sizeof(int64_t), by_value)
        for i in range(grains.shape[0] // 2):
            if grains[2 * i + 1] == 0:
                continue
            low = 0
            high = count
            while low < high:  # the first place behind this one
                if places[(low + high) // 2] <= grains[2 * i + 1]:
                    low = (low + high) // 2 + 1
                else:
                    high = (low + high) // 2
            length = min(places[low] - grains[2 * i + 1] - marker_size, 2 * self.grain_size)
            if length <= 0:
                raise self.fault(grains[2 * i], "overlaps another one")
            found.append(grains[2 * i + 1] + marker_size)
            found.append(length)
        return memoryview(found)

    def add_packed(self, const int64_t[::1] grains not None, const int64_t[::1] stored not None, int64_t last_length):
        """Add rows for compressed `grains` whose places `stored` has, as ``marked`` tells them.

        `last_length` is what a last grain that is only partly on the disk decodes to. Raises ValueError when the
        arguments do not fit each other.
        """
        cdef ExtentRow row
        cdef Py_ssize_t i
        cdef Py_ssize_t at = 0
        for i in range(grains.shape[0] // 2):
            memset(&row, 0, sizeof(row))
            row.offset = self.base + grains[2 * i]
            row.length = min(self.grain_size, self.size - grains[2 * i])
            if grains[2 * i + 1] == 0:
                append_zero(self.rows, row.offset, row.length)
                continue
            if 2 * at + 1 >= stored.shape[0]:
                raise ValueError(f"places of {stored.shape[0] // 2} grains are fewer than there are")
            row.kind = DATA_EXTENT
            row.codec = ZLIB
            row.reader = self.reader
            row.source_offset = stored[2 * at]
            row.source_length = stored[2 * at + 1]
            row.decoded_length = self.grain_size if row.length == self.grain_size else last_length
            self.rows.append(&row)
            at += 1

    cdef object fault(self, int64_t guest, str problem):
        return MapFault(f"the grain for offset {guest} {problem}")
