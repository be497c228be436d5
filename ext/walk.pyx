"""The walk: threads claim windows of a plan, and read and use them in one native loop, for analysis."""

from dataplane._native.plan cimport Plan
from dataplane._native.window cimport Staged, Window

from array import array


cdef class Walk:
    """Windows of one plan, shared by the threads that walk over them; each brings its own Window.

    What happens to a window is up to the subclass. `read_bytes` and `windows_done` may be read while threads work.
    """

    cdef int begin(self, Plan plan, list fds, Py_ssize_t first, Py_ssize_t count, Py_ssize_t per_claim) except -1:
        """Walk over `count` windows from `first` on, `per_claim` at a time. `fds` has a descriptor for each reader."""
        if plan.reader_max >= len(fds) or any(fds[reader] < 0 for reader in plan.readers()):
            raise ValueError(f"reading needs a file descriptor for each of {plan.reader_max + 1} readers")
        self.plan = plan
        self.descriptors = array("i", fds)
        self.fds = self.descriptors
        self.first = first
        self.count = count
        self.per_claim = per_claim
        return 0

    cdef int check(self, Window window) except -1:
        """Raise ValueError for a window that does not fit."""
        return 0

    cdef bint take(self, Window window, Py_ssize_t index) noexcept nogil:
        """Use a loaded window, `index` windows behind the first; return False when memory is short."""
        return True

    def work(self, Window window not None):
        """Read until every window is claimed or ``stop`` is called. Called once in each thread; releases the GIL.

        Raises LoadFailure when the source fails and MemoryError (the other threads stop), and ValueError when `window`
        does not fit.
        """
        cdef int result = 0
        self.check(window)
        window.prepare(self.plan)
        if self.count == 0:
            return
        with nogil:
            result = self.run(window)
            if result != 0:
                dp_set_flag(&self.stopped)
        if result == 1:
            raise window.failure_error()
        if result == 2:
            raise MemoryError(f"no memory to note what is in a window of {window.size} bytes")

    def stop(self):
        """Ask every thread to return after the window it is in."""
        dp_set_flag(&self.stopped)

    cdef int run(self, Window window) noexcept nogil:
        """Return 0 when all is claimed, 1 when a window failed to load, 2 when memory is short."""
        cdef Staged nothing
        cdef long long index
        cdef long long end
        nothing.rows = NULL
        nothing.count = 0
        nothing.bytes = NULL
        while True:
            index = dp_fetch_add(&self.claimed, self.per_claim)
            if index >= self.count:
                return 0
            end = min(index + self.per_claim, <long long> self.count)
            while index < end:
                if dp_load_flag(&self.stopped):
                    return 0
                if not window.fill(self.plan.rows(), self.plan.locate(self.first + index), &self.fds[0], &nothing):
                    return 1
                if not self.take(window, index):
                    return 2
                dp_fetch_add(&self._read_bytes, window.read_bytes)
                dp_fetch_add(&self._windows_done, 1)
                index += 1

    @property
    def read_bytes(self) -> int:
        """Bytes read from the source."""
        return self._read_bytes

    @property
    def windows_done(self) -> int:
        """Windows that were used."""
        return self._windows_done
