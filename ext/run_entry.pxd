"""A run's entry, as the kernels that build and look up runs share it."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef extern from "run_entry.h" nogil:
    ctypedef struct dp_run_entry:
        uint8_t id[32]
        uint32_t pack
        uint32_t offset
        uint32_t stored_length
        uint32_t plain_length
    ctypedef struct dp_count_entry:
        uint8_t id[32]
        int32_t roots
        uint32_t size
        uint64_t owners
    void dp_add_counts(dp_run_entry* into, const dp_run_entry* more)
    int dp_counts_nothing(const dp_run_entry* entry)
    int dp_compare_entries(const void* a, const void* b) noexcept
    uint64_t dp_word(const uint8_t* bytes)
    uint64_t dp_key(const uint8_t* id)
    uint64_t dp_scale(uint64_t word, uint64_t size)
    uint64_t dp_interpolate(uint64_t part, uint64_t whole, uint64_t size) nogil
    int dp_order(const uint8_t* a, const uint8_t* b)
    uint32_t dp_filter_bit(const uint8_t* id, int word)

cdef enum:
    ENTRY_SIZE = 48
    FILTER_BLOCK_SIZE = 32
