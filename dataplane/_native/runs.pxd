"""What other kernels use of runs."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from run_entry cimport dp_run_entry

cdef struct Search:  # for one id among the entries of a run, between two looks at memory
    const uint8_t* id
    Py_ssize_t index  # of the id in its batch
    uint64_t low  # the entry is in [low, high), whose ends have these keys
    uint64_t high
    uint64_t low_key
    uint64_t high_key
    uint64_t guess  # where to look next
    int probes
    int order  # how the entry last looked at compares to the id

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
    cdef bint live(self, const dp_run_entry* entry) noexcept nogil
    cdef const uint32_t* filter_block(self, const uint8_t* id) noexcept nogil
    cdef bint passes(self, const uint8_t* id, int64_t* bad) noexcept nogil
    cdef bint begin(self, Search* search, const uint8_t* id) noexcept nogil
    cdef bint aim(self, Search* search) noexcept nogil
    cdef bint look(self, Search* search, int64_t* bad) noexcept nogil
