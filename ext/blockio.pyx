"""Positioned reads and writes of lists of ranges, and maps of where a file has data; all without the GIL."""

from libc.errno cimport EINTR, ENXIO, EINVAL, errno
from libc.stdint cimport int64_t, uint8_t
from posix.types cimport off_t
from posix.unistd cimport lseek, pread, pwrite

cdef extern from "<unistd.h>" nogil:
    enum:
        SEEK_DATA
        SEEK_HOLE

cdef extern from "<fcntl.h>" nogil:
    enum:
        FALLOC_FL_KEEP_SIZE
        FALLOC_FL_PUNCH_HOLE
    int fallocate(int fd, int mode, off_t offset, off_t length)

from array import array
import os


cdef int pread_some(int fd, uint8_t* target, int64_t wanted, int64_t enough, int64_t offset,
                    int64_t* got) noexcept nogil:
    """Read up to `wanted` bytes, at least `enough`; return 0, an errno, or END_OF_FILE, and how many came in `got`.

    Interrupted and short reads are resumed.
    """
    cdef Py_ssize_t count
    got[0] = 0
    while got[0] < enough:
        count = pread(fd, target + got[0], <size_t> (wanted - got[0]), <off_t> (offset + got[0]))
        if count < 0:
            if errno == EINTR:
                continue
            return errno
        if count == 0:
            return END_OF_FILE
        got[0] += count
    return 0


cdef int pread_full(int fd, uint8_t* target, int64_t length, int64_t offset) noexcept nogil:
    """Read exactly `length` bytes; return 0, an errno, or END_OF_FILE."""
    cdef int64_t got
    return pread_some(fd, target, length, length, offset, &got)


cdef int pwrite_full(int fd, const uint8_t* source, int64_t length, int64_t offset) noexcept nogil:
    """Write exactly `length` bytes; return 0 or an errno."""
    cdef Py_ssize_t put
    while length > 0:
        put = pwrite(fd, <const void*> source, <size_t> length, <off_t> offset)
        if put < 0:
            if errno == EINTR:
                continue
            return errno
        source += put
        offset += put
        length -= put
    return 0


cdef int check_ranges(const int64_t[:, ::1] ranges, Py_ssize_t buffer_size) except -1:
    """Raise ValueError unless every row (file offset, length, buffer offset) stays inside the buffer."""
    cdef Py_ssize_t row
    if ranges.shape[1] != 3:
        raise ValueError(f"ranges have 3 columns (file offset, length, buffer offset), not {ranges.shape[1]}")
    for row in range(ranges.shape[0]):
        if ranges[row, 0] < 0 or ranges[row, 1] < 0 or ranges[row, 2] < 0 \
                or ranges[row, 1] > buffer_size or ranges[row, 2] > buffer_size - ranges[row, 1]:
            raise ValueError(f"range {row} (offset {ranges[row, 0]}, length {ranges[row, 1]}, "
                             f"at {ranges[row, 2]}) leaves a buffer of {buffer_size} bytes")
    return 0


def read_ranges(int fd, const int64_t[:, ::1] ranges not None, uint8_t[::1] buffer not None):
    """Read every range of `fd` into `buffer`; rows are (file offset, length, buffer offset), in bytes.

    Raises ValueError for a range outside the buffer, EOFError when the file ends inside a range, OSError (EIO, …)
    as the kernel reports it; the buffer's content is then undefined.
    """
    cdef Py_ssize_t row = 0
    cdef Py_ssize_t count = ranges.shape[0]
    cdef int failed = 0
    check_ranges(ranges, buffer.shape[0])
    with nogil:
        while row < count:
            if ranges[row, 1] > 0:
                failed = pread_full(fd, &buffer[ranges[row, 2]], ranges[row, 1], ranges[row, 0])
                if failed != 0:
                    break
            row += 1
    if failed == END_OF_FILE:
        raise EOFError(f"the file ends inside the {ranges[row, 1]} bytes at {ranges[row, 0]}")
    if failed != 0:
        raise OSError(failed, os.strerror(failed))


def read_pieces(int fd, const int64_t[::1] offsets not None, Py_ssize_t length, uint8_t[::1] buffer not None):
    """Fill `buffer` with pieces of `length` bytes of `fd` at `offsets` (bytes), one behind the other.

    Raises ValueError when the pieces do not fill the buffer, EOFError when the file ends inside a piece, OSError as the
    kernel reports it; the buffer's content is then undefined.
    """
    cdef Py_ssize_t piece = 0
    cdef Py_ssize_t count = offsets.shape[0]
    cdef int failed = 0
    if length < 0 or (count and length > buffer.shape[0] // count) or length * count != buffer.shape[0]:
        raise ValueError(f"{count} pieces of {length} bytes do not fill a buffer of {buffer.shape[0]}")
    if length == 0:
        return
    with nogil:
        while piece < count and failed == 0:
            failed = EINVAL if offsets[piece] < 0 else pread_full(fd, &buffer[piece * length], length, offsets[piece])
            piece += 1
    if failed == END_OF_FILE:
        raise EOFError(f"the file ends inside the {length} bytes at {offsets[piece - 1]}")
    if failed != 0:
        raise OSError(failed, os.strerror(failed))


def write_ranges(int fd, const int64_t[:, ::1] ranges not None, const uint8_t[::1] buffer not None):
    """Write ranges of `buffer` to `fd`; rows are (file offset, length, buffer offset), in bytes.

    Raises ValueError for a range outside the buffer, OSError (ENOSPC, EIO, …) as the kernel reports it; earlier
    ranges may then have been written.
    """
    cdef Py_ssize_t row = 0
    cdef Py_ssize_t count = ranges.shape[0]
    cdef int failed = 0
    check_ranges(ranges, buffer.shape[0])
    with nogil:
        while row < count:
            if ranges[row, 1] > 0:
                failed = pwrite_full(fd, &buffer[ranges[row, 2]], ranges[row, 1], ranges[row, 0])
                if failed != 0:
                    break
            row += 1
    if failed != 0:
        raise OSError(failed, os.strerror(failed))


def data_ranges(int fd, int64_t offset, int64_t end, Py_ssize_t limit):
    """Return up to `limit` ranges of `fd` that hold data in `[offset, end)` as a memoryview of int64 rows (offset,
    length).

    Rows are sorted, disjoint and clipped; what lies between them is a hole. A file system (or device) that cannot say
    yields the whole range as one row. Raises ValueError for bad bounds and OSError for anything but "no more data".
    """
    if offset < 0 or end < offset or limit < 1:
        raise ValueError(f"no data map of [{offset}, {end}) with at most {limit} rows")
    # array.array fills without numpy, which would cost start-up time on the analysis path.
    cdef object found = array("q", bytes(16 * limit))
    cdef int64_t[::1] rows = found
    cdef Py_ssize_t count = 0
    cdef int64_t start
    cdef int64_t stop
    cdef int failed = 0
    with nogil:
        while offset < end and count < limit:
            start = lseek(fd, <off_t> offset, SEEK_DATA)
            if start < 0:
                if errno == ENXIO:
                    break
                if errno == EINVAL:
                    start = offset
                    stop = end
                else:
                    failed = errno
                    break
            else:
                if start >= end:
                    break
                stop = lseek(fd, <off_t> start, SEEK_HOLE)
                if stop < 0:
                    failed = errno
                    break
                if stop > end:
                    stop = end
            rows[2 * count] = start
            rows[2 * count + 1] = stop - start
            count += 1
            offset = stop
    if failed != 0:
        raise OSError(failed, os.strerror(failed))
    return memoryview(found)[: 2 * count].cast("B").cast("q", (count, 2)) if count else memoryview(b"")


def punch_hole(int fd, int64_t offset, int64_t length):
    """Free `length` bytes of `fd` from `offset` (bytes) so that they read as zeros; the size stays.

    For files, and block devices that can promise it. The GIL is released. Raises ValueError for no byte range,
    OSError as the kernel reports it (EOPNOTSUPP where it cannot be done).
    """
    cdef int failed = 0
    if offset < 0 or length < 1:
        raise ValueError(f"{length} bytes at {offset} are not a byte range")
    with nogil:
        while fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, <off_t> offset, <off_t> length) != 0:
            failed = errno
            if failed != EINTR:
                break
            failed = 0
    if failed != 0:
        raise OSError(failed, os.strerror(failed))
