"""The official C interface of BLAKE3."""

from libc.stdint cimport uint8_t

cdef extern from "blake3.h" nogil:
    ctypedef struct blake3_hasher:
        pass
    const char* blake3_version()
    void blake3_hasher_init(blake3_hasher* self)
    void blake3_hasher_init_keyed(blake3_hasher* self, const uint8_t* key)
    void blake3_hasher_update(blake3_hasher* self, const void* data, size_t length)
    void blake3_hasher_finalize(const blake3_hasher* self, uint8_t* out, size_t out_length)
