"""What other kernels use of the scan kernel."""

from libc.stdint cimport uint8_t

cpdef enum ChunkState:
    ABSENT = 0  # nothing there was read: a hole, or zeros by the source's own word
    LOADED = 1  # read, not yet scanned
    ZERO = 2    # read, and every byte is zero
    DATA = 3    # read, not zero, digest known
    NEW = 4     # DATA seen for the first time
    SEEN = 5    # DATA that this work has met before
    STORED = 6  # DATA that the store already holds

cdef enum:
    XXH3_SIZE = 16
    BLAKE3_SIZE = 32

# Scan `count` chunks of `chunk_size` bytes: every LOADED state becomes ZERO, or DATA with its digest written.
# digest_size chooses the digest (XXH3_SIZE, or BLAKE3_SIZE keyed with `key`); rows of `digests` of other chunks stay.
cdef void scan_loaded(const uint8_t* data, Py_ssize_t count, Py_ssize_t chunk_size, int digest_size,
                      const uint8_t* key, uint8_t* digests, uint8_t* states) noexcept nogil
cdef void xxh3_128(const uint8_t* data, size_t length, uint8_t* digest) noexcept nogil
