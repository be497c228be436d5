"""What other kernels use of a plan."""

from libc.stdint cimport int64_t

cdef enum:
    HOLE_EXTENT = 0
    ZERO_EXTENT = 1
    DATA_EXTENT = 2

cdef struct ExtentRow:  # the columns of dataplane.extent.Extent, in their order
    int64_t offset
    int64_t length
    int64_t kind
    int64_t codec
    int64_t reader
    int64_t source_offset
    int64_t source_length
    int64_t decoded_offset
    int64_t decoded_length

cdef struct PlanWindow:
    int64_t offset
    int64_t length
    int64_t first  # rows [first, last) meet the window
    int64_t last

cdef struct WindowRun:  # `count` neighbouring windows that the same rows meet
    int64_t offset
    Py_ssize_t count
    Py_ssize_t first_window
    Py_ssize_t first
    Py_ssize_t last

cdef class Plan:
    cdef const int64_t[:, ::1] batch
    cdef WindowRun* runs
    cdef Py_ssize_t run_count
    cdef Py_ssize_t run_room
    cdef readonly Py_ssize_t window_count
    cdef readonly Py_ssize_t window_size
    cdef readonly int64_t offset
    cdef readonly int64_t end
    cdef readonly int64_t data_bytes
    cdef readonly int64_t decoded_length_max
    cdef readonly int64_t source_length_max
    cdef readonly int64_t encoded_bytes
    cdef readonly Py_ssize_t reader_max
    cdef const ExtentRow* rows(self) noexcept nogil
    cdef int check_rows(self, int64_t decoded_size_max) except -1
    cdef int cut_windows(self) except -1
    cdef PlanWindow locate(self, Py_ssize_t index) noexcept nogil
    cdef int64_t last_window_at(self) noexcept nogil
    cdef bint add_run(self, int64_t offset, Py_ssize_t count, Py_ssize_t row) noexcept nogil
