"""The compiled copies of the gear kernel."""

from libc.stdint cimport uint8_t, uint32_t

cdef extern from "gear_variants.h" nogil:
    enum:
        GEAR_VARIANT_MAX
        GEAR_QUIET
        GEAR_CONTEXT
    ctypedef struct dp_gear_variant:
        const char* name
        size_t (*find)(const uint8_t* bytes, size_t length, uint32_t* places, uint8_t* bits) noexcept nogil
    int dp_gear_variants(dp_gear_variant* variants)
