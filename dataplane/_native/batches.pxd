"""What the kernels that decode tables use of a builder of batches."""

from libc.stdint cimport int64_t

from dataplane._native.allocation cimport Allocation
from dataplane._native.plan cimport ExtentRow

cdef class BatchBuilder:
    cdef ExtentRow* rows
    cdef Py_ssize_t first  # rows [first, count) are held
    cdef Py_ssize_t count
    cdef Py_ssize_t room
    cdef int64_t window_size
    cdef Py_ssize_t rows_max
    cdef public Allocation allocation
    cdef readonly int64_t given
    cdef readonly int64_t end
    # Append one row behind the others; what lies between is a hole. Raises ValueError when it does not lie behind.
    cdef int append(self, const ExtentRow* row) except -1
    cdef int push(self, const ExtentRow* row) except -1
    cdef int append_hole(self, int64_t stop) except -1
    cdef object batch(self, int64_t stop)
    cdef Py_ssize_t find(self, int64_t offset) noexcept

# Rows for the two kinds that kernels make most. Offsets on the disk are multiples of a sector, and `place` + `length`
# stays within 63 bits. Of data, what the file has as a hole becomes zeros; returned is how many bytes are none.
cdef int append_zero(BatchBuilder rows, int64_t offset, int64_t length) except -1
cdef int64_t append_data(BatchBuilder rows, int64_t offset, int64_t length, int64_t reader, int64_t place) except -1
