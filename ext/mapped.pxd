"""Files read where they lie in the page cache."""

from libc.stdint cimport int64_t, uint8_t

from mapping cimport dp_mapping

cdef extern from "mapped.h" nogil:
    void dp_mapping_begin()
    const uint8_t* dp_look_at(dp_mapping* mapping, int fd, int64_t offset, size_t length)
    int dp_let_go(dp_mapping* mapping)
    void dp_unmap(dp_mapping* mapping)
    double dp_thread_seconds()
