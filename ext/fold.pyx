"""The fold: digests of chunks twice as large from pairs of digests, so that one reading serves every chunk size."""

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <string.h>
    #define XXH_INLINE_ALL /* of 16 bytes, known when it is compiled, little is left */
    #include <xxhash.h>

    static inline uint64_t dp_digest_of_pair(uint64_t left, uint64_t right)
    {
        uint64_t pair[2] = {left, right}, first;
        XXH128_canonical_t digest;
        XXH128_canonicalFromHash(&digest, XXH3_128bits(pair, sizeof pair));
        memcpy(&first, digest.digest, sizeof first);
        return first;
    }
    """
    uint64_t dp_digest_of_pair(uint64_t left, uint64_t right) noexcept nogil

cdef enum:
    DATA_MIN = 2  # 0: nothing was read, 1: read and zero, as in a survey's log


cdef inline uint64_t parent_of(uint64_t left, uint64_t right) noexcept nogil:
    cdef uint64_t digest
    if left < DATA_MIN and right < DATA_MIN:
        return left | right
    # Absent and zero are the same content.
    digest = dp_digest_of_pair(left if left >= DATA_MIN else 0, right if right >= DATA_MIN else 0)
    return digest if digest >= DATA_MIN else digest + DATA_MIN


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
