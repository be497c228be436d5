"""The fold: digests of chunks twice as large from pairs of digests, so that one reading serves every chunk size; and
their keys, to be sorted and counted."""

from libc.stdint cimport int64_t, uint64_t

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

    /* Return k for 2**(k-1) < count <= 2**k. */
    static inline int dp_bucket(uint64_t count)
    {
        return count < 2 ? 0 : 64 - __builtin_clzll(count - 1);
    }
    """
    uint64_t dp_digest_of_pair(uint64_t left, uint64_t right) noexcept nogil
    int dp_bucket(uint64_t count) noexcept nogil

cdef enum:
    DATA_MIN = 2  # 0: nothing was read, 1: read and zero, as in a survey's log
    IMAGE_BITS_MAX = 10


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


def gather(const uint64_t[::1] digests not None, int bits, uint64_t image, uint64_t[::1] keys not None,
           Py_ssize_t low, Py_ssize_t high) -> tuple[int, int]:
    """Write the keys of the digests that stand for data into `keys`: from `low` upwards those below 2**63, in front of
    `high` downwards the others. Return where both have got to; releases the GIL.

    A key is a digest whose lowest `bits` bits (10 at most) are `image`. Raises ValueError when that does not fit, or
    when there are more digests than places from `low` to `high`.
    """
    cdef Py_ssize_t i
    cdef uint64_t key
    cdef bint is_low
    if not 0 <= bits <= IMAGE_BITS_MAX or image >> bits:
        raise ValueError(f"image {image} does not fit {bits} bits")
    if not 0 <= low <= high <= keys.shape[0]:
        raise ValueError(f"no places from {low} to {high} in {keys.shape[0]} keys")
    with nogil:
        for i in range(digests.shape[0]):
            if digests[i] < DATA_MIN:
                continue
            if low == high:
                break
            key = digests[i] >> bits << bits | image
            is_low = key >> 63 == 0
            keys[low if is_low else high - 1] = key  # both bounds move without a jump, which would be a guess
            low += is_low
            high -= not is_low
        else:
            i = digests.shape[0]
    if i < digests.shape[0]:
        raise ValueError(f"more digests than the {keys.shape[0]} keys take")
    return low, high


def tally(const uint64_t[::1] keys not None, int64_t[::1] references not None) -> int:
    """Return how many distinct keys there are of sorted `keys`; releases the GIL.

    To each place k of `references` is added how many of them occur 2**(k-1) + 1 to 2**k times, to the last place those
    that occur more often too. Raises ValueError when there is no place.
    """
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t start
    cdef Py_ssize_t distinct = 0
    cdef Py_ssize_t last = references.shape[0] - 1
    if last < 0:
        raise ValueError("no place for references")
    with nogil:
        while i < keys.shape[0]:
            start = i
            i += 1
            while i < keys.shape[0] and keys[i] == keys[start]:
                i += 1
            distinct += 1
            references[min(last, <Py_ssize_t> dp_bucket(i - start))] += 1
    return distinct
