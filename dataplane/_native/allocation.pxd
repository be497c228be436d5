"""What the kernels that decode tables use of a map of a file's holes."""

from libc.stdint cimport int64_t

cdef struct Range:
    int64_t start
    int64_t stop

cdef class Allocation:
    cdef Range* ranges
    cdef readonly Py_ssize_t count
    cdef Py_ssize_t room
    cdef Py_ssize_t near  # where the last look-up ended: the next one is often there
    cdef int64_t size
    cdef int64_t hole_size_min
    cdef readonly int64_t data_bytes
    cdef int append(self, int64_t start, int64_t stop) except -1
    # Tell whether the byte at `offset` is data; `stop` becomes where that ends to be so, INT64_MAX for never.
    cdef bint holds(self, int64_t offset, int64_t* stop) noexcept
    # How many of `length` bytes at `offset` are data; their sum must not leave 63 bits.
    cdef int64_t data_in(self, int64_t offset, int64_t length) noexcept
