"""Numbers of tables in the byte orders of the formats; every look is checked against the table's length."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "tables are decoded on little-endian machines only"
    #endif
    """
    uint32_t dp_swap32 "__builtin_bswap32" (uint32_t value)
    uint64_t dp_swap64 "__builtin_bswap64" (uint64_t value)


cdef inline const uint8_t* entry_at(const uint8_t[::1] table, Py_ssize_t entry, Py_ssize_t size) except NULL:
    """Return where an entry of `size` bytes lies; raises IndexError when it leaves the table."""
    if entry < 0 or entry >= table.shape[0] // size:
        raise IndexError(f"entry {entry} of a table of {table.shape[0] // size}")
    return &table[entry * size]


cdef inline uint32_t little32(const uint8_t[::1] table, Py_ssize_t entry) except? 0:
    cdef uint32_t value
    memcpy(&value, entry_at(table, entry, 4), 4)
    return value


cdef inline uint32_t big32(const uint8_t[::1] table, Py_ssize_t entry) except? 0:
    return dp_swap32(little32(table, entry))


cdef inline uint64_t little64(const uint8_t[::1] table, Py_ssize_t entry) except? 0:
    cdef uint64_t value
    memcpy(&value, entry_at(table, entry, 8), 8)
    return value


cdef inline uint64_t big64(const uint8_t[::1] table, Py_ssize_t entry) except? 0:
    return dp_swap64(little64(table, entry))
