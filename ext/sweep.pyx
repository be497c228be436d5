"""The sweep: threads claim ranges of a plan and read, scan and count them in one native loop, for analysis."""

from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free

from dataplane._native.plan cimport Plan
from dataplane._native.scan cimport DATA
from dataplane._native.table cimport DigestTable
from dataplane._native.walk cimport Walk, dp_fetch_add
from dataplane._native.window cimport Window

cdef enum:
    ALLOCATION_BITS = 22  # allocation is counted in aligned spans of 4 MiB


cdef class Sweep(Walk):
    """One plan, shared by the threads that sweep it; each brings its own Window.

    `claim_size` is how many bytes of the disk a thread claims at a time; `fds` has a descriptor for every reader. The
    counters (`read_bytes`, `data_chunks`, `data_bytes`, `zero_chunks`, `distinct_chunks`, `allocated_bytes`) may be
    read while threads work. `table` gets the digest of every chunk that is not zero; a chunk counts as distinct when
    it was not there before.
    """

    cdef DigestTable table
    cdef long long _data_chunks
    cdef long long _data_bytes
    cdef long long _zero_chunks
    cdef long long _distinct_chunks
    cdef uint8_t* allocated  # one flag for each span of 4 MiB of the plan
    cdef Py_ssize_t spans

    def __cinit__(self, Plan plan not None, DigestTable table not None, fds: list[int], Py_ssize_t claim_size):
        self.begin(plan, fds, 0, plan.window_count, max(1, claim_size // plan.window_size))
        self.table = table
        self.spans = (plan.end >> ALLOCATION_BITS) - (plan.offset >> ALLOCATION_BITS) + 1
        self.allocated = <uint8_t*> calloc(self.spans, 1)
        if self.allocated == NULL:
            raise MemoryError(f"no memory to note {self.spans} spans")

    def __dealloc__(self):
        free(self.allocated)

    cdef int check(self, Window window) except -1:
        if window.digest_size != self.table.key_size:
            raise ValueError(f"digests of {window.digest_size} bytes do not fit a table of {self.table.key_size}")
        if window.chunk_size > 1 << ALLOCATION_BITS:
            raise ValueError(f"a sweep counts spans of {1 << ALLOCATION_BITS} bytes, not chunks of {window.chunk_size}")
        return 0

    cdef bint take(self, Window window, Py_ssize_t index) noexcept nogil:
        cdef long long distinct = self.insert(window)
        if distinct < 0:
            return False
        dp_fetch_add(&self._data_chunks, window.data_chunks)
        dp_fetch_add(&self._data_bytes, window.data_bytes)
        dp_fetch_add(&self._zero_chunks, window.zero_chunks)
        dp_fetch_add(&self._distinct_chunks, distinct)
        return True

    cdef long long insert(self, Window window) noexcept nogil:
        """Insert the digests of the window; return how many are new, or -1 without memory."""
        cdef Py_ssize_t i
        cdef long long distinct = 0
        cdef int64_t at
        cdef int result
        for i in range(window.chunk_count):
            self.table.fetch_ahead(&window._digests[0], &window._states[0], i, window.chunk_count)
            if window._states[i] == DATA:
                result = self.table.insert(&window._digests[i * window.digest_size])
                if result < 0:
                    return -1
                distinct += result
                at = (window.offset + i * window.chunk_size) >> ALLOCATION_BITS
                self.allocated[at - (self.plan.offset >> ALLOCATION_BITS)] = 1  # racing threads write the same
        return distinct

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
