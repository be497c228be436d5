"""The compiled copies of the scan kernel."""

from libc.stdint cimport uint8_t

cdef extern from "scan_variants.h" nogil:
    enum:
        SCAN_VARIANT_MAX
    ctypedef struct dp_scan_variant:
        const char* name
        int (*is_zero)(const uint8_t* bytes, size_t length) noexcept nogil
        void (*xxh3_128)(const uint8_t* bytes, size_t length, uint8_t* digest) noexcept nogil
    int dp_scan_variants(dp_scan_variant* variants)
