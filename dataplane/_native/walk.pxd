"""What kernels that walk over the windows of a plan share."""

from dataplane._native.plan cimport Plan
from dataplane._native.window cimport Window

cdef class Walk:
    cdef Plan plan
    cdef object descriptors
    cdef const int[::1] fds
    cdef Py_ssize_t first      # window
    cdef Py_ssize_t count      # windows
    cdef Py_ssize_t per_claim  # windows that a thread takes at once
    cdef long long claimed
    cdef int stopped
    cdef long long _read_bytes
    cdef long long _windows_done
    cdef int begin(self, Plan plan, list fds, Py_ssize_t first, Py_ssize_t count, Py_ssize_t per_claim) except -1
    cdef int check(self, Window window) except -1
    cdef bint take(self, Window window, Py_ssize_t index) noexcept nogil
    cdef int run(self, Window window) noexcept nogil

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
