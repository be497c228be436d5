"""What other kernels use of the gear kernel."""

from libc.stdint cimport uint8_t, uint32_t

# As dp_gear_find in gear_variants.h, by the chosen copy.
cdef size_t gear_find(const uint8_t* bytes, size_t length, uint32_t* places, uint8_t* bits) noexcept nogil
