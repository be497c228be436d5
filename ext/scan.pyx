"""The scan kernel: for every chunk of a buffer, the zero test and the digest in one pass; and digests of single
buffers."""

from libc.stdint cimport uint8_t
from libc.string cimport memset

from blake3 cimport blake3_hasher, blake3_hasher_finalize, blake3_hasher_init, blake3_hasher_init_keyed, \
    blake3_hasher_update
from scan_variants cimport SCAN_VARIANT_MAX, dp_scan_variant, dp_scan_variants

import os

cdef dp_scan_variant VARIANTS[SCAN_VARIANT_MAX]
cdef int VARIANT_COUNT = dp_scan_variants(VARIANTS)
cdef dp_scan_variant CHOSEN

include "variants.pxi"


cdef void xxh3_128(const uint8_t* data, size_t length, uint8_t* digest) noexcept nogil:
    CHOSEN.xxh3_128(data, length, digest)


cdef void blake3_256(const uint8_t* data, size_t length, const uint8_t* key, uint8_t* digest) noexcept nogil:
    cdef blake3_hasher hasher
    if key != NULL:
        blake3_hasher_init_keyed(&hasher, key)
    else:
        blake3_hasher_init(&hasher)
    blake3_hasher_update(&hasher, data, length)
    blake3_hasher_finalize(&hasher, digest, BLAKE3_SIZE)


cdef void scan_loaded(const uint8_t* data, Py_ssize_t count, Py_ssize_t chunk_size, int digest_size,
                      const uint8_t* key, uint8_t* digests, uint8_t* states) noexcept nogil:
    cdef Py_ssize_t i
    cdef const uint8_t* chunk
    for i in range(count):
        if states[i] != LOADED:
            continue
        chunk = data + i * chunk_size
        if CHOSEN.is_zero(chunk, chunk_size):
            states[i] = ZERO
            continue
        states[i] = DATA
        if digest_size == BLAKE3_SIZE:
            blake3_256(chunk, chunk_size, key, digests + i * BLAKE3_SIZE)
        else:
            CHOSEN.xxh3_128(chunk, chunk_size, digests + i * XXH3_SIZE)


def scan_chunks(const uint8_t[::1] data not None, Py_ssize_t chunk_size, uint8_t[::1] digests not None,
                uint8_t[::1] states not None, const uint8_t[::1] key=None):
    """Zero-test and digest every chunk of `data`; the GIL is released.

    `data` holds a whole number of chunks of `chunk_size` bytes. With a 32-byte `key` the digest is keyed BLAKE3-256
    (32 bytes a chunk), without one XXH3-128 (16 bytes a chunk, seed 0, canonical order). `digests` and `states` are
    written: a state is ZERO (the digest row is zeros) or DATA. Raises ValueError when the shapes do not fit.
    """
    cdef int digest_size = XXH3_SIZE if key is None else BLAKE3_SIZE
    cdef Py_ssize_t count
    if chunk_size < 1 or data.shape[0] % chunk_size:
        raise ValueError(f"{data.shape[0]} bytes are not a whole number of chunks of {chunk_size}")
    count = data.shape[0] // chunk_size
    if key is not None and key.shape[0] != BLAKE3_SIZE:
        raise ValueError(f"a BLAKE3 key has 32 bytes, not {key.shape[0]}")
    if digests.shape[0] != count * digest_size or states.shape[0] != count:
        raise ValueError(f"{count} chunks need {count * digest_size} bytes of digests and {count} states, "
                         f"not {digests.shape[0]} and {states.shape[0]}")
    if count == 0:
        return
    with nogil:
        memset(&digests[0], 0, count * digest_size)
        memset(&states[0], LOADED, count)
        scan_loaded(&data[0], count, chunk_size, digest_size, &key[0] if key is not None else NULL,
                    &digests[0], &states[0])


def is_zero(const uint8_t[::1] data not None) -> bool:
    """Return True when every byte of `data` is zero; an empty buffer counts as zero. Releases the GIL."""
    cdef bint zero = True
    if data.shape[0]:
        with nogil:
            zero = CHOSEN.is_zero(&data[0], data.shape[0])
    return zero


def xxh3(const uint8_t[::1] data not None) -> bytes:
    """Return the XXH3-128 of `data` (seed 0) as 16 bytes in canonical (big-endian) order. Releases the GIL."""
    cdef uint8_t[XXH3_SIZE] digest
    with nogil:
        CHOSEN.xxh3_128(&data[0] if data.shape[0] else NULL, data.shape[0], digest)
    return digest[:XXH3_SIZE]


def blake3(const uint8_t[::1] data not None, const uint8_t[::1] key=None) -> bytes:
    """Return the BLAKE3-256 of `data`, keyed when a 32-byte `key` is given. Releases the GIL.

    Raises ValueError for a key of another length.
    """
    cdef uint8_t[BLAKE3_SIZE] digest
    if key is not None and key.shape[0] != BLAKE3_SIZE:
        raise ValueError(f"a BLAKE3 key has 32 bytes, not {key.shape[0]}")
    with nogil:
        blake3_256(&data[0] if data.shape[0] else NULL, data.shape[0], &key[0] if key is not None else NULL, digest)
    return digest[:BLAKE3_SIZE]
