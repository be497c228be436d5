"""Packs: which chunks of a pack's table to read, as extents."""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from dataplane._native.codec cimport RAW, ZSTD
from dataplane._native.plan cimport DATA_EXTENT, ExtentRow
from dataplane._native.table cimport DigestTable

from array import array

cdef enum:
    ID_SIZE = 32


cdef inline bint is_sampled(const uint8_t* id, uint64_t seed, uint64_t limit) noexcept nogil:
    """Decide by the id itself: ids are uniform, and a multiplied sum gives every seed a sample of its own."""
    cdef uint64_t word
    memcpy(&word, id + 24, sizeof(word))
    return (word + seed) * <uint64_t> 0x9E3779B97F4A7C15 <= limit


def select_chunks(const uint8_t[::1] ids not None, const int64_t[::1] offsets not None,
                  const uint32_t[::1] stored_lengths not None, const uint32_t[::1] plain_lengths not None,
                  int64_t chunk_size, int64_t position, int64_t reader, DigestTable wanted=None, double share=1.0,
                  uint64_t seed=0) -> tuple[object, bytes, list[int]]:
    """Return (batch of extents, their ids, indexes of the chosen chunks of other sizes).

    The columns describe the chunks of one pack: 32 bytes of id, offset in the pack, stored and plain length, in bytes.
    Chosen are those in `wanted` (all, without one), and of these a `share` from 0 to 1 that `seed` picks. Chunks that
    decode to `chunk_size` bytes become DATA extents of `reader`, laid side by side from `position` of a made-up disk;
    neighbours in the pack that are not compressed share one. The batch is None when there are none. Chunks of other
    sizes (manifest pages and roots) are only named.

    Raises ValueError when the columns differ in length or hold negative offsets.
    """
    cdef Py_ssize_t count = stored_lengths.shape[0]
    cdef Py_ssize_t made = 0
    cdef Py_ssize_t rows = 0
    cdef Py_ssize_t i
    cdef uint64_t limit = UINT64_MAX if share >= 1 else <uint64_t> (share * 18446744073709549568.0)
    cdef ExtentRow* row
    cdef ExtentRow* last = NULL  # the row before, when it is not compressed
    if ids.shape[0] != ID_SIZE * count or plain_lengths.shape[0] != count or offsets.shape[0] != count:
        raise ValueError("the columns of a pack differ in length")
    if not 0 <= share <= 1 or chunk_size < 1 or position < 0:
        raise ValueError(f"cannot choose a share of {share} of chunks of {chunk_size} bytes")
    cdef object flat = array("q", bytes(sizeof(ExtentRow) * count))
    cdef bytearray chosen = bytearray(ids.shape[0])
    cdef uint8_t* kept = <uint8_t*> <char*> chosen
    cdef list others = []
    cdef int64_t[::1] cells = flat
    for i in range(count):
        if offsets[i] < 0:
            raise ValueError(f"chunk {i} lies at {offsets[i]}")
        if wanted is not None and not wanted.contains(&ids[ID_SIZE * i]):
            continue
        if share < 1 and not is_sampled(&ids[ID_SIZE * i], seed, limit):
            continue
        if plain_lengths[i] != chunk_size:
            others.append(i)
            continue
        memcpy(kept + ID_SIZE * made, &ids[ID_SIZE * i], ID_SIZE)
        made += 1
        if last != NULL and stored_lengths[i] == chunk_size and offsets[i] - last.source_length == last.source_offset:
            last.length += chunk_size
            last.source_length += chunk_size
            continue
        row = <ExtentRow*> &cells[rows * (sizeof(ExtentRow) // sizeof(int64_t))]
        rows += 1
        row.offset = position + (made - 1) * chunk_size
        row.length = chunk_size
        row.kind = DATA_EXTENT
        row.codec = RAW if stored_lengths[i] == plain_lengths[i] else ZSTD
        row.reader = reader
        row.source_offset = offsets[i]
        row.source_length = stored_lengths[i]
        if row.codec == ZSTD:
            row.decoded_length = chunk_size
        last = row if row.codec == RAW else NULL
    del cells
    if made == 0:
        return None, b"", others
    cells_used = rows * (sizeof(ExtentRow) // sizeof(int64_t))
    batch = memoryview(flat)[:cells_used].cast("B").cast("q", (rows, sizeof(ExtentRow) // sizeof(int64_t)))
    return batch, bytes(chosen[: ID_SIZE * made]), others
