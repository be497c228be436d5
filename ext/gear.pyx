"""The gear kernel: where content itself says that a chunk may end."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc

from gear_variants cimport GEAR_CONTEXT, GEAR_QUIET, GEAR_VARIANT_MAX, dp_gear_variant, dp_gear_variants

import os
from array import array

cdef dp_gear_variant VARIANTS[GEAR_VARIANT_MAX]
cdef int VARIANT_COUNT = dp_gear_variants(VARIANTS)
cdef dp_gear_variant CHOSEN

CONTEXT = GEAR_CONTEXT
PLACES_EVERY = GEAR_QUIET + 1

include "variants.pxi"


cdef size_t gear_find(const uint8_t* bytes, size_t length, uint32_t* places, uint8_t* bits) noexcept nogil:
    return CHOSEN.find(bytes, length, places, bits)


def find(const uint8_t[::1] data not None) -> tuple[array, bytes]:
    """Return the places to cut in `data`, ascending, and how many bits of the hash are 0 at each; releases the GIL.

    The first CONTEXT bytes only decide on those behind them: a place p in CONTEXT + 1 … len(data) is a cut in front of
    byte p, at which the gear hash of the 32 bytes before has ten low bits of 0; the bits are those and the high bits
    of 0, 24 at most. Places within 64 bytes behind another such hash do not count. Raises ValueError for less than
    CONTEXT bytes, and MemoryError.
    """
    cdef size_t length
    cdef size_t count = 0
    cdef size_t i
    cdef size_t room
    cdef uint32_t* places
    cdef uint8_t* bits
    if data.shape[0] < GEAR_CONTEXT:
        raise ValueError(f"{data.shape[0]} bytes are less than the {GEAR_CONTEXT} of the context")
    length = data.shape[0] - GEAR_CONTEXT
    if length >= 1 << 31:
        raise ValueError(f"{length} bytes are more than a search takes")
    room = length // (GEAR_QUIET + 1) + 2
    places = <uint32_t*> malloc(room * sizeof(uint32_t))
    bits = <uint8_t*> malloc(room)
    try:
        if places == NULL or bits == NULL:
            raise MemoryError(f"no memory for {room} places")
        with nogil:
            count = gear_find(&data[0] + GEAR_CONTEXT, length, places, bits)
            for i in range(count):
                places[i] += GEAR_CONTEXT
        found = array("I")
        found.frombytes((<char*> places)[: count * sizeof(uint32_t)])
        return found, (<char*> bits)[:count]
    finally:
        free(places)
        free(bits)
