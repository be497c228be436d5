"""Files read where they lie in the page cache."""

from libc.stdint cimport int64_t, uint8_t

cdef extern from "mapped.h" nogil:
    ctypedef struct dp_mapping:
        pass
    void dp_mapping_begin()
    const uint8_t* dp_map(dp_mapping* mapping, int fd, int64_t offset, size_t length)
    int dp_unmap(dp_mapping* mapping)
    double dp_thread_seconds()
