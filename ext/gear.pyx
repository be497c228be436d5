"""The gear kernel: where content itself says that a chunk may end."""

from libc.stdint cimport uint8_t, uint32_t

from gear_variants cimport GEAR_CONTEXT, GEAR_QUIET, GEAR_VARIANT_MAX, dp_gear_variant, dp_gear_variants

import os
from array import array

cdef dp_gear_variant VARIANTS[GEAR_VARIANT_MAX]
cdef int VARIANT_COUNT = dp_gear_variants(VARIANTS)
cdef dp_gear_variant CHOSEN

CONTEXT = GEAR_CONTEXT
PLACES_EVERY = GEAR_QUIET + 1


def choose_variant(name: str | None = None) -> str:
    """Choose the compiled copy to use: `name`, or the fastest that this CPU runs; return its name.

    Raises ValueError when this build or CPU has no such copy. Only tests and benchmarks have a reason to call it.
    """
    global CHOSEN
    cdef int i
    for i in range(VARIANT_COUNT):
        if name is None or VARIANTS[i].name.decode() == name:
            CHOSEN = VARIANTS[i]
            return CHOSEN.name.decode()
    raise ValueError(f"DATAPLANE_CPU={name}: this machine runs {', '.join(variants())}")


def variants() -> list[str]:
    """Return the names of the copies that this CPU can run, the fastest first."""
    return [VARIANTS[i].name.decode() for i in range(VARIANT_COUNT)]


def chosen_variant() -> str:
    """Return the name of the copy in use."""
    return CHOSEN.name.decode()


choose_variant(os.environ.get("DATAPLANE_CPU") or None)


cdef size_t gear_find(const uint8_t* bytes, size_t length, uint32_t* places, uint8_t* bits) noexcept nogil:
    return CHOSEN.find(bytes, length, places, bits)


def find(const uint8_t[::1] data not None) -> tuple[array, bytes]:
    """Return the places to cut in `data`, ascending, and how many bits of the hash are 0 at each; releases the GIL.

    The first CONTEXT bytes only decide on those behind them: a place p in CONTEXT + 1 … len(data) is a cut in front of
    byte p, at which the gear hash of the 32 bytes before has ten low bits of 0; the bits are those and the high bits
    of 0, 24 at most. Places within 64 bytes behind another such hash do not count. Raises ValueError for less than
    CONTEXT bytes.
    """
    cdef size_t length
    cdef size_t count = 0
    cdef size_t i
    if data.shape[0] < GEAR_CONTEXT:
        raise ValueError(f"{data.shape[0]} bytes are less than the {GEAR_CONTEXT} of the context")
    length = data.shape[0] - GEAR_CONTEXT
    if length >= 1 << 31:
        raise ValueError(f"{length} bytes are more than a search takes")
    found = array("I", bytes(4 * (length // PLACES_EVERY + 2)))
    kept = bytearray(len(found))
    cdef uint32_t[::1] places = found
    cdef uint8_t[::1] bits = kept
    with nogil:
        count = gear_find(&data[0] + GEAR_CONTEXT, length, &places[0], &bits[0])
        for i in range(count):
            places[i] += GEAR_CONTEXT
    return found[:count], bytes(kept[:count])
