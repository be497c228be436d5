"""The survey: threads read the windows of a plan and write down a short digest of every 4 KiB block, for analysis."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from dataplane._native.pieces cimport PieceRows
from dataplane._native.plan cimport Plan
from dataplane._native.scan cimport DATA, ZERO
from dataplane._native.walk cimport Walk
from dataplane._native.window cimport Window

from dataplane._native.pieces import check_window

cdef enum:
    CLAIM_SIZE = 4 << 20  # of neighbouring windows: read in order, as a disk likes it
    BLOCK_ABSENT = 0    # nothing there was read
    BLOCK_ZERO = 1      # read, and every byte is zero
    BLOCK_DATA_MIN = 2  # the least value that stands for data


cdef void note_blocks(Window window, uint64_t* row, Py_ssize_t blocks) noexcept nogil:
    """Write what a loaded window holds: the first eight bytes of each digest, as this machine reads integers."""
    cdef Py_ssize_t i
    cdef uint64_t digest
    for i in range(window.chunk_count):
        if window._states[i] == DATA:
            memcpy(&digest, &window._digests[i * window.digest_size], sizeof(digest))
            row[i] = digest if digest >= BLOCK_DATA_MIN else digest + BLOCK_DATA_MIN
        else:
            row[i] = BLOCK_ZERO if window._states[i] == ZERO else BLOCK_ABSENT
    for i in range(window.chunk_count, blocks):
        row[i] = BLOCK_ABSENT


cdef int check_row(Window window, Py_ssize_t blocks) except -1:
    if window.size // window.chunk_size != blocks:
        raise ValueError(f"a window of {window.size // window.chunk_size} chunks does not fit a row of {blocks}")
    return 0


def note_window(Window window not None, uint64_t[::1] row not None):
    """Write what a loaded window holds to `row`, as ``Survey`` does. Raises ValueError when the row does not fit."""
    check_row(window, row.shape[0])
    with nogil:
        note_blocks(window, &row[0], row.shape[0])


cdef class Survey(Walk):
    """Windows `first` to `first` + rows of `log` of one plan, shared by the threads that read them.

    Row n of `log` gets one value for each chunk of window `first` + n: 0 where nothing was read, 1 where all bytes are
    zero, else the first eight bytes of its digest (2 added to the digests 0 and 1). With `pieces`, which are as many,
    the windows are cut into pieces too. `fds` has a descriptor for every reader. `read_bytes` and `windows_done` may be
    read while threads work.
    """

    cdef uint64_t[:, ::1] log
    cdef PieceRows pieces

    def __cinit__(self, Plan plan not None, fds: list[int], uint64_t[:, ::1] log not None, Py_ssize_t first,
                  PieceRows pieces=None):
        if first < 0 or log.shape[0] > plan.window_count - first:
            raise ValueError(f"{log.shape[0]} rows from window {first} on do not fit a plan of {plan.window_count}")
        if pieces is not None and pieces.count != log.shape[0]:
            raise ValueError(f"pieces of {pieces.count} windows do not fit {log.shape[0]} rows")
        self.log = log
        self.pieces = pieces
        self.begin(plan, fds, first, log.shape[0], max(1, CLAIM_SIZE // plan.window_size))

    cdef int check(self, Window window) except -1:
        check_row(window, self.log.shape[1])
        if self.pieces is not None:
            check_window(window)
        return 0

    cdef bint take(self, Window window, Py_ssize_t index) noexcept nogil:
        note_blocks(window, &self.log[index, 0], self.log.shape[1])
        return self.pieces is None or self.pieces.note(index, window)
