"""What other kernels use of a window."""

from libc.stdint cimport int64_t, uint8_t

from mapping cimport dp_mapping

from dataplane._native.codec cimport Decoder
from dataplane._native.plan cimport ExtentRow, Plan, PlanWindow

cdef enum Fault:
    READ_FAILED = 1    # `error` is an errno
    CUT_SHORT = 2      # the source ends inside a range
    NOT_DECODABLE = 3  # a compressed piece is damaged
    NOT_STAGED = 4     # a range of a reader without a descriptor was not handed over

cdef struct Failure:
    int fault
    int error
    int64_t reader
    int64_t source_offset

cdef struct Staged:  # where bytes of a reader without a descriptor are; null when there are none
    const int64_t* rows  # (reader, source offset, length, position in bytes)
    Py_ssize_t count
    const uint8_t* bytes

cdef class Window:
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t chunk_size
    cdef readonly int digest_size
    cdef readonly int64_t offset
    cdef readonly int64_t length
    cdef readonly Py_ssize_t chunk_count
    cdef readonly Py_ssize_t data_chunks
    cdef readonly Py_ssize_t zero_chunks
    cdef readonly int64_t data_bytes
    cdef readonly int64_t read_bytes
    cdef uint8_t[::1] _plain
    cdef uint8_t* room  # where byte 0 of the window would lie: in `_plain`, or in what load_into was given
    cdef uint8_t[::1] _digests
    cdef uint8_t[::1] _states
    cdef uint8_t[32] key
    cdef Decoder decoder
    cdef uint8_t* encoded
    cdef int64_t encoded_room
    cdef int64_t encoded_ahead
    cdef int64_t encoded_reader
    cdef int64_t encoded_offset
    cdef int64_t encoded_length
    cdef uint8_t* decoded
    cdef int64_t decoded_room
    cdef int64_t decoded_reader
    cdef int64_t decoded_source
    cdef int64_t decoded_length
    cdef bint scanning
    cdef readonly bint in_place
    cdef dp_mapping mapping
    cdef readonly int64_t mapped_bytes
    cdef int trials
    cdef int copies_left
    cdef double[2] pace
    cdef int64_t filled
    cdef Py_ssize_t scanned
    cdef Failure failure
    cdef void set_scanning(self, bint scanning)
    cdef int prepare(self, Plan plan) except -1
    cdef bint fill(self, const ExtentRow* rows, PlanWindow window, const int* fds, const Staged* staged) noexcept nogil
    cdef bint copy_raw(self, const ExtentRow* row, int64_t start, int64_t stop, int fd,
                       const Staged* staged) noexcept nogil
    cdef bint read_raw(self, const ExtentRow* row, int64_t start, int64_t stop, int fd) noexcept nogil
    cdef int64_t scan_mapped(self, int64_t start, int64_t stop, int64_t shift, int fd) noexcept nogil
    cdef bint copy_decoded(self, const ExtentRow* row, int64_t start, int64_t stop, int fd,
                           const Staged* staged) noexcept nogil
    cdef const uint8_t* fetch_encoded(self, const ExtentRow* row, int fd, const Staged* staged) noexcept nogil
    cdef void open_at(self, int64_t start) noexcept nogil
    cdef void advance(self, int64_t stop) noexcept nogil
    cdef void scan_until(self, Py_ssize_t chunk) noexcept nogil
    cdef void count_states(self) noexcept nogil
    cdef bint fail(self, int fault, const ExtentRow* row, int64_t source_offset, int error) noexcept nogil
    cdef object failure_error(self)
