"""Counting: how many roots use each chunk, kept as sorted entries that add up."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcmp, memcpy

from run_entry cimport ENTRY_SIZE, dp_add_counts, dp_compare_entries, dp_count_entry, dp_run_entry

from dataplane._native.runs cimport Run

from dataplane._native.runs import RunCorrupt

cdef extern from *:
    void prefetch "__builtin_prefetch" (const void* place) noexcept nogil

cdef enum:
    ID_SIZE = 32
    AHEAD = 16  # so many ids later what is being fetched of the filters is looked at

cdef uint8_t[32] ZERO_ID


def ids_between(const uint8_t[::1] page not None, int first, int last) -> bytes:
    """Return the ids of a manifest page, 32 bytes each, whose first byte is from `first` to `last`; zeros are none.

    Raises ValueError when `page` is not a whole number of ids.
    """
    cdef Py_ssize_t count = page.shape[0] // ID_SIZE
    cdef Py_ssize_t made = 0
    cdef Py_ssize_t i
    cdef bytearray kept = bytearray(page.shape[0])
    cdef uint8_t* target = <uint8_t*> <char*> kept
    if page.shape[0] % ID_SIZE:
        raise ValueError(f"{page.shape[0]} bytes are not a whole number of ids")
    for i in range(count):
        if first <= page[ID_SIZE * i] <= last and memcmp(&page[ID_SIZE * i], ZERO_ID, ID_SIZE) != 0:
            memcpy(target + ID_SIZE * made, &page[ID_SIZE * i], ID_SIZE)
            made += 1
    return bytes(kept[: ID_SIZE * made])


def sort_distinct(uint8_t[::1] ids not None) -> int:
    """Sort ids, 32 bytes each, in place; return how many are distinct, which then come first. Releases the GIL.

    Raises ValueError when `ids` is not a whole number of ids.
    """
    cdef Py_ssize_t count = ids.shape[0] // ID_SIZE
    cdef Py_ssize_t kept = 0
    cdef Py_ssize_t i
    if ids.shape[0] % ID_SIZE:
        raise ValueError(f"{ids.shape[0]} bytes are not a whole number of ids")
    if count == 0:
        return 0
    with nogil:
        qsort(&ids[0], count, ID_SIZE, dp_compare_entries)
        for i in range(count):
            if kept == 0 or memcmp(&ids[ID_SIZE * i], &ids[ID_SIZE * (kept - 1)], ID_SIZE) != 0:
                if kept != i:
                    memcpy(&ids[ID_SIZE * kept], &ids[ID_SIZE * i], ID_SIZE)
                kept += 1
    return kept


class Change:
    """What counting some chunks of a root in, or out, changes. Sizes are stored lengths in bytes.

    `entries` add to the counts. `used_chunks` and `used_size` are chunks that no other root uses. `others` says what
    changes for each root that used a chunk alone before (counting in), or does from now on (counting out), as number:
    (chunks, size). `missing` are the ids that are in no run of the index: their size counts as 0.
    """

    def __init__(
        self, entries: bytes, used_chunks: int, used_size: int, others: dict, missing: list
    ) -> None:
        self.entries = entries
        self.used_chunks = used_chunks
        self.used_size = used_size
        self.others = others
        self.missing = missing


cdef void fetch_filters(list runs, const uint8_t* id):
    """Have fetched what the filters of runs will be asked for `id`: in large ones each look waits for memory."""
    cdef Py_ssize_t r
    cdef Run run
    for r in range(<Py_ssize_t> len(runs)):
        run = <Run?> runs[r]
        if run.entry_count:
            prefetch(run.filter_block(id))


def count_chunks(const uint8_t[::1] ids not None, counts: list[Run], index: list[Run], uint64_t number,
                 bint leaving) -> Change:
    """Return what changes when root `number` begins to use chunks (sorted distinct ids), or with `leaving` ceases to.

    `counts` are count files that together say who uses what now, `index` the runs that know the chunks' sizes; the last
    is asked first, since what nobody has counted is mostly in the newest, and they come in order of size. Raises
    ValueError when `ids` is not a whole number of ids or a root leaves a chunk that nobody uses, RunCorrupt when a
    block is damaged; its index counts through `counts`, then `index`.
    """
    cdef Py_ssize_t count = ids.shape[0] // ID_SIZE
    cdef Py_ssize_t i
    cdef Py_ssize_t r
    cdef uint64_t used_chunks = 0
    cdef uint64_t used_size = 0
    cdef int64_t bad = -1
    cdef dp_run_entry sum
    cdef dp_count_entry* before = <dp_count_entry*> &sum
    cdef dp_count_entry* made
    cdef const dp_run_entry* entry
    cdef const uint8_t* id
    cdef bint known
    cdef uint64_t owner
    cdef dict others = {}
    cdef list missing = []
    if ids.shape[0] % ID_SIZE:
        raise ValueError(f"{ids.shape[0]} bytes are not a whole number of ids")
    cdef bytearray entries = bytearray(count * ENTRY_SIZE)
    for i in range(count):
        id = &ids[ID_SIZE * i]
        if i + AHEAD < count:
            fetch_filters(counts, id + ID_SIZE * AHEAD)
        made = <dp_count_entry*> (<char*> entries) + i
        memcpy(made.id, id, ID_SIZE)
        before.roots = 0
        before.owners = 0
        before.size = 0
        known = False
        for r in range(<Py_ssize_t> len(counts)):
            entry = (<Run?> counts[r]).seek(id, &bad)
            if bad >= 0:
                raise RunCorrupt(r, bad)
            if entry != NULL:
                dp_add_counts(&sum, entry)
                before.size = (<const dp_count_entry*> entry).size
                known = True
        if not known:
            entry = NULL
            for r in range(<Py_ssize_t> len(index) - 1, -1, -1):
                entry = (<Run?> index[r]).find(id, &bad)
                if bad >= 0:
                    raise RunCorrupt(<Py_ssize_t> len(counts) + r, bad)
                if entry != NULL:
                    break
            if entry != NULL:
                before.size = entry.stored_length
            else:
                missing.append(id[:ID_SIZE])
        made.size = before.size
        made.roots = -1 if leaving else 1
        made.owners = 0 - number if leaving else number
        if before.roots < (1 if leaving else 0):
            raise ValueError(f"chunk {i} is used by {before.roots} roots: the counts do not fit the manifests")
        if before.roots == (1 if leaving else 0):
            used_chunks += 1
            used_size += before.size
        elif before.roots == (2 if leaving else 1):
            owner = before.owners - number if leaving else before.owners
            chunks, size = others.get(owner, (0, 0))
            others[owner] = (chunks + 1, size + before.size)
    return Change(bytes(entries), used_chunks, used_size, others, missing)
