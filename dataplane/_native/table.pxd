"""What other kernels use of the digest table."""

from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    SHARD_COUNT = 64

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass

cdef struct Shard:
    pthread_mutex_t lock
    uint8_t* slots      # capacity x key_size bytes; an all-zero slot is empty
    uint64_t capacity
    uint64_t count
    bint has_zero_key   # the one key that a slot cannot hold

cdef class DigestTable:
    cdef Shard[SHARD_COUNT] shards
    cdef readonly int key_size
    cdef void fetch_ahead(self, const uint8_t* digests, const uint8_t* states, Py_ssize_t i,
                          Py_ssize_t count) noexcept nogil
    cdef int insert(self, const uint8_t* key) noexcept nogil  # 1 new, 0 present, -1 out of memory
    cdef bint contains(self, const uint8_t* key) noexcept nogil
