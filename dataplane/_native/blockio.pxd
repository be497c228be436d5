"""What other kernels use of block I/O."""

from libc.stdint cimport int64_t, uint8_t

cdef enum:
    END_OF_FILE = -1  # the file ended before the range was complete

cdef int pread_full(int fd, uint8_t* target, int64_t length, int64_t offset) noexcept nogil
cdef int pread_some(int fd, uint8_t* target, int64_t wanted, int64_t enough, int64_t offset,
                    int64_t* got) noexcept nogil
