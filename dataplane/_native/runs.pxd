"""What other kernels use of runs."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from run_entry cimport dp_run_entry

cdef class Run:
    cdef const uint8_t[::1] data
    cdef uint64_t entry_count
    cdef uint64_t filter_blocks
    cdef const dp_run_entry* entries
    cdef const uint8_t* filter
    cdef const uint8_t* sums
    cdef uint64_t covered
    cdef uint8_t* checked
    cdef readonly uint32_t pack_count
    cdef uint8_t* dead
    cdef bint touch(self, const void* place, uint64_t length, int64_t* bad) noexcept nogil
    cdef const dp_run_entry* find(self, const uint8_t* id, int64_t* bad) noexcept nogil
    cdef const dp_run_entry* seek(self, const uint8_t* id, int64_t* bad) noexcept nogil
    cdef const dp_run_entry* search(self, const uint8_t* id, int64_t* bad) noexcept nogil
