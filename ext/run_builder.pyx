"""Building runs: sorted index entries and the filter in front of them."""

from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memcmp, memcpy

from run_entry cimport ENTRY_SIZE, FILTER_BLOCK_SIZE, dp_compare_entries, dp_filter_bit, dp_run_entry, dp_scale, dp_word


cdef class RunBuilder:
    """Gathers the entries of one run. Not safe for concurrent use; memory is 48 to 72 bytes an entry, twice that to
    sort."""

    cdef dp_run_entry* entries
    cdef Py_ssize_t count
    cdef Py_ssize_t room

    def __dealloc__(self):
        free(self.entries)

    def __len__(self):
        return self.count

    def add(self, uint32_t pack, uint64_t offset, const uint8_t[::1] ids not None,
            const uint32_t[::1] stored_lengths not None, const uint32_t[::1] plain_lengths not None):
        """Add the chunks that lie one behind the other in pack number `pack` from `offset`, in bytes.

        `ids` has 32 bytes a chunk. Raises ValueError when the columns differ in length or a chunk ends past 4 GiB.
        """
        cdef Py_ssize_t more = stored_lengths.shape[0]
        cdef Py_ssize_t i
        cdef Py_ssize_t room = self.room
        cdef dp_run_entry* entry
        if ids.shape[0] != 32 * more or plain_lengths.shape[0] != more:
            raise ValueError("the columns of a run differ in length")
        while room < self.count + more:
            room += room // 2 + 1024
        if room > self.room:
            entry = <dp_run_entry*> realloc(self.entries, room * sizeof(dp_run_entry))
            if entry == NULL:
                raise MemoryError(f"no memory for a run of {room} entries")
            self.entries = entry
            self.room = room
        for i in range(more):
            if offset > UINT32_MAX or offset + stored_lengths[i] > UINT32_MAX:
                raise ValueError(f"chunk {i} at {offset} ends past what an entry can say")
            entry = self.entries + self.count + i
            memcpy(entry.id, &ids[32 * i], 32)
            entry.pack = pack
            entry.offset = <uint32_t> offset
            entry.stored_length = stored_lengths[i]
            entry.plain_length = plain_lengths[i]
            offset += stored_lengths[i]
        self.count += more

    def finish(self) -> bytes:
        """Return the entries sorted by id, 48 bytes each, one for each id, and forget them. Releases the GIL."""
        cdef Py_ssize_t kept = 0
        cdef Py_ssize_t i
        with nogil:
            if self.count > 1:
                qsort(self.entries, self.count, sizeof(dp_run_entry), dp_compare_entries)
            for i in range(self.count):
                if kept == 0 or memcmp(self.entries[i].id, self.entries[kept - 1].id, 32) != 0:
                    self.entries[kept] = self.entries[i]
                    kept += 1
        cdef bytes made = (<char*> self.entries)[: kept * sizeof(dp_run_entry)] if kept else b""
        free(self.entries)
        self.entries = NULL
        self.count = self.room = 0
        return made


def build_filter(const uint8_t[::1] entries not None, Py_ssize_t block_count) -> bytearray:
    """Return the split block Bloom filter of entries: `block_count` blocks of 32 bytes; see ``add_to_filter``."""
    if block_count < 0:
        raise ValueError(f"a filter has no {block_count} blocks")
    cdef bytearray made = bytearray(FILTER_BLOCK_SIZE * block_count)
    add_to_filter(made, entries)
    return made


def add_to_filter(uint8_t[::1] blocks not None, const uint8_t[::1] entries not None) -> None:
    """Note the ids of entries in a split block Bloom filter of 32-byte blocks. Releases the GIL.

    The block of an id is its second word scaled to the count; in each of the block's eight 32-bit words one bit is set,
    chosen by five bits of the id's third word. (Putze, Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom
    Filters", 2007; ids are uniform, so they need no further hashing.) Raises ValueError for ragged entries or blocks.
    """
    cdef Py_ssize_t block_count = blocks.shape[0] // FILTER_BLOCK_SIZE
    cdef Py_ssize_t count = entries.shape[0] // ENTRY_SIZE
    cdef uint32_t* words
    cdef uint32_t* block
    cdef const uint8_t* id
    cdef Py_ssize_t i
    cdef int word
    if entries.shape[0] % ENTRY_SIZE or blocks.shape[0] % FILTER_BLOCK_SIZE or (count and block_count < 1):
        raise ValueError(f"{entries.shape[0]} bytes of entries do not fit {block_count} filter blocks")
    if count == 0:
        return
    words = <uint32_t*> &blocks[0]
    with nogil:
        for i in range(count):
            id = &entries[i * ENTRY_SIZE]
            block = words + 8 * dp_scale(dp_word(id + 8), block_count)
            for word in range(8):
                block[word] |= dp_filter_bit(id, word)
