"""The fold: digests of chunks twice as large from pairs of digests, so that one reading serves every chunk size."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from dataplane._native.scan cimport XXH3_SIZE, xxh3_128

cdef enum:
    DATA_MIN = 2  # 0: nothing was read, 1: read and zero, as in a survey's log


cdef uint64_t parent_of(uint64_t left, uint64_t right) noexcept nogil:
    cdef uint64_t[2] pair
    cdef uint8_t[XXH3_SIZE] digest
    cdef uint64_t short_digest
    if left < DATA_MIN and right < DATA_MIN:
        return left | right
    # Absent and zero are the same content.
    pair[0] = left if left >= DATA_MIN else 0
    pair[1] = right if right >= DATA_MIN else 0
    xxh3_128(<const uint8_t*> pair, sizeof(pair), digest)
    memcpy(&short_digest, digest, sizeof(short_digest))
    return short_digest if short_digest >= DATA_MIN else short_digest + DATA_MIN


def fold(const uint64_t[::1] children not None, uint64_t[::1] parents not None):
    """Write to `parents` the digest of each pair of neighbouring `children`; releases the GIL.

    Two parents are equal when their pairs hold the same content (and, up to a chance of 2**-64, only then): a parent is
    the first eight bytes of the XXH3-128 of its two children in memory order, where absent and zero children count as
    0. It is 0 when both are absent and 1 when the pair is zero otherwise. `parents` may be the first half of
    `children`'s own memory. Raises ValueError unless there are two children for each parent.
    """
    cdef Py_ssize_t i
    if children.shape[0] != 2 * parents.shape[0]:
        raise ValueError(f"{parents.shape[0]} parents have {2 * parents.shape[0]} children, not {children.shape[0]}")
    with nogil:
        for i in range(parents.shape[0]):
            parents[i] = parent_of(children[2 * i], children[2 * i + 1])
