"""The survey: threads read the windows of a plan and write down a short digest of every 4 KiB block, for analysis."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from dataplane._native.plan cimport Plan
from dataplane._native.scan cimport DATA, ZERO
from dataplane._native.window cimport Staged, Window

from array import array

cdef extern from *:
    """
    static inline long long dp_fetch_add(long long *value, long long more)
    {
        return __atomic_fetch_add(value, more, __ATOMIC_RELAXED);
    }
    static inline int dp_load_flag(const int *flag) { return __atomic_load_n(flag, __ATOMIC_RELAXED); }
    static inline void dp_set_flag(int *flag) { __atomic_store_n(flag, 1, __ATOMIC_RELAXED); }
    """
    long long dp_fetch_add(long long* value, long long more) nogil
    int dp_load_flag(const int* flag) nogil
    void dp_set_flag(int* flag) nogil

cdef enum:
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


cdef class Survey:
    """Windows `first` to `first` + rows of `log` of one plan, shared by the threads that read them.

    Row n of `log` gets one value for each chunk of window `first` + n: 0 where nothing was read, 1 where all bytes are
    zero, else the first eight bytes of its digest (2 added to the digests 0 and 1). `fds` has a descriptor for every
    reader. `read_bytes` and `windows_done` may be read while threads work.
    """

    cdef Plan plan
    cdef object descriptors
    cdef const int[::1] fds
    cdef uint64_t[:, ::1] log
    cdef Py_ssize_t first
    cdef long long claimed
    cdef int stopped
    cdef long long _read_bytes
    cdef long long _windows_done

    def __cinit__(self, Plan plan not None, fds: list[int], uint64_t[:, ::1] log not None, Py_ssize_t first):
        self.plan = plan
        self.descriptors = array("i", fds)
        self.fds = self.descriptors
        self.log = log
        self.first = first
        if plan.reader_max >= len(fds) or any(fds[reader] < 0 for reader in plan.readers()):
            raise ValueError(f"a survey needs a file descriptor for each of {plan.reader_max + 1} readers")
        if first < 0 or log.shape[0] > plan.window_count - first:
            raise ValueError(f"{log.shape[0]} rows from window {first} on do not fit a plan of {plan.window_count}")

    def work(self, Window window not None):
        """Read until every window is claimed or ``stop`` is called. Called once in each thread; releases the GIL.

        Raises LoadFailure when the source fails (the other threads stop), and ValueError when `window` fits neither
        the plan nor the rows.
        """
        cdef bint loaded = True
        check_row(window, self.log.shape[1])
        window.prepare(self.plan)
        if self.log.shape[0] == 0:
            return
        with nogil:
            loaded = self.run(window)
            if not loaded:
                dp_set_flag(&self.stopped)
        if not loaded:
            raise window.failure_error()

    def stop(self):
        """Ask every thread to return after the window it is in."""
        dp_set_flag(&self.stopped)

    cdef bint run(self, Window window) noexcept nogil:
        """Return False when a window failed to load."""
        cdef Staged nothing
        cdef long long index
        nothing.rows = NULL
        nothing.count = 0
        nothing.bytes = NULL
        while not dp_load_flag(&self.stopped):
            index = dp_fetch_add(&self.claimed, 1)
            if index >= self.log.shape[0]:
                break
            if not window.fill(self.plan.rows(), self.plan.locate(self.first + index), &self.fds[0], &nothing):
                return False
            note_blocks(window, &self.log[index, 0], self.log.shape[1])
            dp_fetch_add(&self._read_bytes, window.read_bytes)
            dp_fetch_add(&self._windows_done, 1)
        return True

    @property
    def read_bytes(self) -> int:
        """Bytes read from the source."""
        return self._read_bytes

    @property
    def windows_done(self) -> int:
        """Windows whose rows are written."""
        return self._windows_done
