"""The sweep: threads claim ranges of a plan and read, scan and count them in one native loop, for analysis."""

from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free

from dataplane._native.plan cimport Plan
from dataplane._native.scan cimport DATA
from dataplane._native.table cimport DigestTable
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
    ALLOCATION_BITS = 22  # allocation is counted in aligned spans of 4 MiB


cdef class Sweep:
    """One plan, shared by the threads that sweep it; each brings its own Window.

    `claim_size` is how many bytes of the disk a thread claims at a time; `fds` has a descriptor for every reader. The
    counters (`read_bytes`, `data_chunks`, `data_bytes`, `zero_chunks`, `distinct_chunks`, `allocated_bytes`) may be
    read while threads work. `table` gets the digest of every chunk that is not zero; a chunk counts as distinct when
    it was not there before.
    """

    cdef Plan plan
    cdef DigestTable table
    cdef object descriptors
    cdef const int[::1] fds
    cdef long long claimed
    cdef long long per_claim
    cdef int stopped
    cdef long long _read_bytes
    cdef long long _data_chunks
    cdef long long _data_bytes
    cdef long long _zero_chunks
    cdef long long _distinct_chunks
    cdef uint8_t* allocated  # one flag for each span of 4 MiB of the plan
    cdef Py_ssize_t spans

    def __cinit__(self, Plan plan not None, DigestTable table not None, fds: list[int], Py_ssize_t claim_size):
        self.plan = plan
        self.table = table
        self.descriptors = array("i", fds)
        self.fds = self.descriptors
        self.per_claim = max(1, claim_size // plan.window_size)
        if plan.reader_max >= len(fds) or any(fd < 0 for fd in fds):
            raise ValueError(f"a sweep needs a file descriptor for each of {plan.reader_max + 1} readers")
        self.spans = (plan.end >> ALLOCATION_BITS) - (plan.offset >> ALLOCATION_BITS) + 1
        self.allocated = <uint8_t*> calloc(self.spans, 1)
        if self.allocated == NULL:
            raise MemoryError(f"no memory to note {self.spans} spans")

    def __dealloc__(self):
        free(self.allocated)

    def work(self, Window window not None):
        """Sweep until every window is claimed or ``stop`` is called. Called once in each thread; releases the GIL.

        Raises LoadFailure when the source fails (the other threads stop), MemoryError, and ValueError when `window`
        fits neither the plan nor the table.
        """
        cdef int result = 0
        if window.digest_size != self.table.key_size:
            raise ValueError(f"digests of {window.digest_size} bytes do not fit a table of {self.table.key_size}")
        if window.chunk_size > 1 << ALLOCATION_BITS:
            raise ValueError(f"a sweep counts spans of {1 << ALLOCATION_BITS} bytes, not chunks of {window.chunk_size}")
        window.prepare(self.plan)
        if self.plan.window_count == 0:
            return
        with nogil:
            result = self.run(window)
            if result != 0:
                dp_set_flag(&self.stopped)
        if result == 1:
            raise window.failure_error()
        if result == 2:
            raise MemoryError(f"the digest table cannot grow past {self.table.memory_bytes} bytes")

    def stop(self):
        """Ask every thread to return after the window it is in."""
        dp_set_flag(&self.stopped)

    cdef int run(self, Window window) noexcept nogil:
        """Return 0 when all is claimed, 1 when a window failed to load, 2 when memory is short."""
        cdef Staged nothing
        cdef long long index
        cdef long long end
        cdef long long distinct
        nothing.rows = NULL
        nothing.count = 0
        nothing.bytes = NULL
        while True:
            index = dp_fetch_add(&self.claimed, self.per_claim)
            if index >= self.plan.window_count:
                return 0
            end = min(index + self.per_claim, <long long> self.plan.window_count)
            while index < end:
                if dp_load_flag(&self.stopped):
                    return 0
                if not window.fill(self.plan.rows(), self.plan.locate(index), &self.fds[0], &nothing):
                    return 1
                distinct = self.insert(window)
                if distinct < 0:
                    return 2
                dp_fetch_add(&self._read_bytes, window.read_bytes)
                dp_fetch_add(&self._data_chunks, window.data_chunks)
                dp_fetch_add(&self._data_bytes, window.data_bytes)
                dp_fetch_add(&self._zero_chunks, window.zero_chunks)
                dp_fetch_add(&self._distinct_chunks, distinct)
                index += 1

    cdef long long insert(self, Window window) noexcept nogil:
        """Insert the digests of the window; return how many are new, or -1 without memory."""
        cdef Py_ssize_t i
        cdef long long distinct = 0
        cdef int64_t at
        cdef int result
        for i in range(window.chunk_count):
            if window._states[i] == DATA:
                result = self.table.insert(&window._digests[i * window.digest_size])
                if result < 0:
                    return -1
                distinct += result
                at = (window.offset + i * window.chunk_size) >> ALLOCATION_BITS
                self.allocated[at - (self.plan.offset >> ALLOCATION_BITS)] = 1  # racing threads write the same
        return distinct

    @property
    def read_bytes(self) -> int:
        """Bytes read from the source."""
        return self._read_bytes

    @property
    def data_chunks(self) -> int:
        """Chunks that are not all zero."""
        return self._data_chunks

    @property
    def data_bytes(self) -> int:
        """Bytes in those chunks, clipped to the end of the disk."""
        return self._data_bytes

    @property
    def zero_chunks(self) -> int:
        """Chunks that were read and found zero."""
        return self._zero_chunks

    @property
    def distinct_chunks(self) -> int:
        """Chunks whose digest the table did not hold before."""
        return self._distinct_chunks

    @property
    def allocated_bytes(self) -> int:
        """Bytes in aligned spans of 4 MiB that hold a chunk that is not zero."""
        cdef Py_ssize_t i
        cdef long long spans = 0
        for i in range(self.spans):
            spans += self.allocated[i]
        return spans << ALLOCATION_BITS
