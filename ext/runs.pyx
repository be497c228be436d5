"""Runs: building sorted index entries and their filter, and looking chunk ids up in mapped run files."""

from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memcmp, memcpy

from dataplane._native.plan cimport DATA_EXTENT, HOLE_EXTENT, ExtentRow
from dataplane._native.codec cimport RAW, ZSTD
from dataplane._native.scan cimport BLAKE3_SIZE, NEW, STORED, XXH3_SIZE, xxh3_128

from array import array

cdef extern from *:
    """
    /* A run's entry as it lies in the file, little-endian; store/FORMAT.md has the same table. */
    typedef struct {
        uint8_t id[32];
        uint32_t pack;           /* index into the run's list of packs */
        uint32_t offset;         /* of the encoded chunk in the pack, in bytes */
        uint32_t stored_length;  /* encoded bytes; equal to plain_length when stored as it is */
        uint32_t plain_length;
    } dp_run_entry;
    _Static_assert(sizeof(dp_run_entry) == 48, "a run entry has 48 bytes");
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "store files are little-endian and read in place"
    #endif

    static int dp_compare_entries(const void *a, const void *b)
    {
        return __builtin_memcmp(a, b, 32);
    }
    static inline uint64_t dp_word(const uint8_t *bytes)
    {
        uint64_t word;
        __builtin_memcpy(&word, bytes, sizeof word);
        return word;
    }
    static inline uint64_t dp_key(const uint8_t *id) { return __builtin_bswap64(dp_word(id)); }
    static inline uint64_t dp_scale(uint64_t word, uint64_t size)
    {
        return (uint64_t)(((unsigned __int128)word * size) >> 64);
    }
    static inline uint64_t dp_interpolate(uint64_t part, uint64_t whole, uint64_t size)
    {
        return (uint64_t)((unsigned __int128)part * size / whole);
    }
    """
    ctypedef struct dp_run_entry:
        uint8_t id[32]
        uint32_t pack
        uint32_t offset
        uint32_t stored_length
        uint32_t plain_length
    int dp_compare_entries(const void* a, const void* b) noexcept nogil
    uint64_t dp_word(const uint8_t* bytes) nogil
    uint64_t dp_key(const uint8_t* id) nogil
    uint64_t dp_scale(uint64_t word, uint64_t size) nogil
    uint64_t dp_interpolate(uint64_t part, uint64_t whole, uint64_t size) nogil

cdef enum:
    ENTRY_SIZE = 48
    FILTER_BLOCK_SIZE = 32
    BLOCK_BITS = 16  # a checksum guards each 64 KiB of a run
    INTERPOLATIONS_MAX = 6

cdef uint8_t[32] ZERO_ID


class RunCorrupt(Exception):
    """A block of a run file does not match its checksum. `run` is the index of the run, `offset` the block's place in
    it."""

    def __init__(self, run: int, offset: int) -> None:
        super().__init__(f"run {run} at {offset}")
        self.run = run
        self.offset = offset


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


cdef inline uint64_t filter_bits(const uint8_t* id, int word) noexcept nogil:
    return 1 << ((dp_word(id + 16) >> (5 * word)) & 31)


def build_filter(const uint8_t[::1] entries not None, Py_ssize_t block_count) -> bytearray:
    """Return the split block Bloom filter of sorted entries: `block_count` blocks of 32 bytes.

    The block of an id is its second word scaled to the count; in each of the block's eight 32-bit words one bit is set,
    chosen by five bits of the id's third word. (Putze, Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom
    Filters", 2007; ids are uniform, so they need no further hashing.) Raises ValueError for ragged entries.
    """
    cdef bytearray made = bytearray(FILTER_BLOCK_SIZE * block_count)
    cdef uint32_t* words = <uint32_t*> <char*> made
    cdef uint32_t* block
    cdef const uint8_t* id
    cdef Py_ssize_t count = entries.shape[0] // ENTRY_SIZE
    cdef Py_ssize_t i
    cdef int word
    if entries.shape[0] % ENTRY_SIZE or (count and block_count < 1):
        raise ValueError(f"{entries.shape[0]} bytes of entries do not fit {block_count} filter blocks")
    with nogil:
        for i in range(count):
            id = &entries[i * ENTRY_SIZE]
            block = words + 8 * dp_scale(dp_word(id + 8), block_count)
            for word in range(8):
                block[word] |= <uint32_t> filter_bits(id, word)
    return made


cdef class Run:
    """One mapped run file, looked up in place; each 64 KiB block is checked against its checksum when first touched.

    `data` is the whole file; the offsets come from its header, and the caller has checked the header and the table of
    checksums. `covered` is how many bytes from the start the checksums guard. Raises ValueError for sections that
    leave the file or the guarded part.
    """

    cdef const uint8_t[::1] data
    cdef uint64_t entry_count
    cdef uint64_t filter_blocks
    cdef const dp_run_entry* entries
    cdef const uint8_t* filter
    cdef const uint8_t* sums
    cdef uint64_t covered
    cdef uint8_t* checked
    cdef readonly uint32_t pack_count

    def __cinit__(self, const uint8_t[::1] data not None, *, uint64_t filter_offset, uint64_t filter_blocks,
                  uint64_t entries_offset, uint64_t entry_count, uint64_t sums_offset, uint64_t covered,
                  uint32_t pack_count):
        cdef uint64_t size = data.shape[0]
        if covered > size or sums_offset > size or ((covered + 65535) >> BLOCK_BITS) * XXH3_SIZE > size - sums_offset \
                or entry_count > covered // ENTRY_SIZE or entries_offset > covered - entry_count * ENTRY_SIZE \
                or filter_blocks > covered // FILTER_BLOCK_SIZE \
                or filter_offset > covered - filter_blocks * FILTER_BLOCK_SIZE \
                or (entry_count and not filter_blocks):
            raise ValueError("the sections of the run leave its file")
        self.data = data
        self.entry_count = entry_count
        self.filter_blocks = filter_blocks
        self.entries = <const dp_run_entry*> (&data[0] + entries_offset)
        self.filter = &data[0] + filter_offset
        self.sums = &data[0] + sums_offset
        self.covered = covered
        self.pack_count = pack_count
        self.checked = <uint8_t*> calloc((covered >> BLOCK_BITS) + 1, 1)
        if self.checked == NULL:
            raise MemoryError("no memory to open a run")

    def __dealloc__(self):
        free(self.checked)

    def __len__(self):
        return self.entry_count

    cdef bint touch(self, const void* place, uint64_t length, int64_t* bad) noexcept nogil:
        """Check the blocks under `length` bytes at `place`; False and the bad block's offset when one is damaged."""
        cdef uint64_t at = <const uint8_t*> place - &self.data[0]
        cdef uint64_t block
        cdef uint64_t start
        cdef uint8_t[XXH3_SIZE] sum
        for block in range(at >> BLOCK_BITS, ((at + length - 1) >> BLOCK_BITS) + 1):
            if self.checked[block]:
                continue
            start = block << BLOCK_BITS
            xxh3_128(&self.data[0] + start, min(<uint64_t> 65536, self.covered - start), sum)
            if memcmp(sum, self.sums + XXH3_SIZE * block, XXH3_SIZE) != 0:
                bad[0] = start
                return False
            self.checked[block] = 1  # threads may check a block twice; both find the same
        return True

    cdef const dp_run_entry* find(self, const uint8_t* id, int64_t* bad) noexcept nogil:
        """Return the entry of `id`, or NULL; `bad` is set to the offset of a damaged block, else left alone."""
        cdef const uint32_t* block
        cdef int word
        if self.entry_count == 0:
            return NULL
        block = <const uint32_t*> self.filter + 8 * dp_scale(dp_word(id + 8), self.filter_blocks)
        if not self.touch(block, FILTER_BLOCK_SIZE, bad):
            return NULL
        for word in range(8):
            if not block[word] & <uint32_t> filter_bits(id, word):
                return NULL
        return self.search(id, bad)

    cdef const dp_run_entry* search(self, const uint8_t* id, int64_t* bad) noexcept nogil:
        """Interpolate, since ids are uniform; then halve, so that no input makes it slow."""
        cdef uint64_t low = 0
        cdef uint64_t high = self.entry_count
        cdef uint64_t low_key = 0
        cdef uint64_t high_key = ~<uint64_t> 0
        cdef uint64_t key = dp_key(id)
        cdef uint64_t guess
        cdef int steps = 0
        cdef int order
        while low < high:
            guess = low + (high - low) // 2
            if steps < INTERPOLATIONS_MAX and high_key > low_key:
                guess = low + dp_interpolate(key - low_key, high_key - low_key, high - low)
                if guess >= high:
                    guess = high - 1
                steps += 1
            if not self.touch(self.entries + guess, ENTRY_SIZE, bad):
                return NULL
            order = memcmp(self.entries[guess].id, id, 32)
            if order == 0:
                return self.entries + guess
            if order < 0:
                low = guess + 1
                low_key = dp_key(self.entries[guess].id)
            else:
                high = guess
                high_key = dp_key(self.entries[guess].id)
        return NULL


cdef class RunSet:
    """Several runs looked up as one. Packs are numbered through all of them: those of the first run come first.

    Safe for concurrent use. Raises RunCorrupt when a block it needs is damaged.
    """

    cdef list runs
    cdef int64_t run_count
    cdef uint32_t[:] bases_view
    cdef object bases

    def __cinit__(self, runs: list[Run]):
        self.runs = list(runs)
        self.run_count = len(self.runs)
        self.bases = array("I", [0] * (self.run_count + 1))
        for i in range(self.run_count):
            self.bases[i + 1] = self.bases[i] + (<Run?> self.runs[i]).pack_count
        self.bases_view = self.bases

    def __len__(self):
        return sum(len(run) for run in self.runs)

    def mark_stored(self, const uint8_t[::1] ids not None, uint8_t[::1] states not None) -> tuple[int, int]:
        """Turn every NEW state whose id is in a run into STORED; return (how many, sum of their stored lengths).

        Raises ValueError when `ids` has not 32 bytes for each state.
        """
        cdef Py_ssize_t count = states.shape[0]
        cdef Py_ssize_t found = 0
        cdef int64_t stored_bytes = 0
        cdef int64_t bad = -1
        cdef Py_ssize_t i
        cdef Py_ssize_t r
        cdef Run run
        cdef const dp_run_entry* entry
        if ids.shape[0] != 32 * count:
            raise ValueError(f"{count} states need {32 * count} bytes of ids, not {ids.shape[0]}")
        for r in range(self.run_count):
            run = <Run> self.runs[r]
            with nogil:
                for i in range(count):
                    if states[i] == NEW:
                        entry = run.find(&ids[32 * i], &bad)
                        if entry != NULL:
                            states[i] = STORED
                            stored_bytes += entry.stored_length
                            found += 1
                        elif bad >= 0:
                            break
            if bad >= 0:
                raise RunCorrupt(r, bad)
        return found, stored_bytes

    def find(self, const uint8_t[::1] id not None) -> tuple[int, int, int, int] | None:
        """Return (pack, offset, stored length, plain length) of one id, in bytes, or None. ValueError unless 32
        bytes."""
        cdef int64_t bad = -1
        cdef Py_ssize_t r
        cdef Run run
        cdef const dp_run_entry* entry
        if id.shape[0] != BLAKE3_SIZE:
            raise ValueError(f"a chunk id has 32 bytes, not {id.shape[0]}")
        for r in range(self.run_count):
            run = <Run> self.runs[r]
            entry = run.find(&id[0], &bad)
            if bad >= 0:
                raise RunCorrupt(r, bad)
            if entry != NULL:
                return self.bases[r] + entry.pack, entry.offset, entry.stored_length, entry.plain_length
        return None

    def chunks_of(self, uint32_t pack) -> tuple[bytes, object, object, object]:
        """Return the chunks that the runs know in pack number `pack`, in the order of their ids: (ids, offsets, stored
        lengths, plain lengths) as bytes and arrays of int64, uint32, uint32.

        Looks at every entry: meant for a pack whose own table is lost.
        """
        cdef bytearray ids = bytearray()
        cdef object offsets = array("q")
        cdef object stored_lengths = array("I")
        cdef object plain_lengths = array("I")
        cdef int64_t bad = -1
        cdef Py_ssize_t r
        cdef uint64_t i
        cdef Run run
        cdef const dp_run_entry* entry
        for r in range(self.run_count):
            run = <Run> self.runs[r]
            if not self.bases_view[r] <= pack < self.bases_view[r + 1]:
                continue
            for i in range(run.entry_count):
                entry = run.entries + i
                if not run.touch(entry, ENTRY_SIZE, &bad):
                    raise RunCorrupt(r, bad)
                if entry.pack == pack - self.bases_view[r]:
                    ids += entry.id[:32]
                    offsets.append(entry.offset)
                    stored_lengths.append(entry.stored_length)
                    plain_lengths.append(entry.plain_length)
        return bytes(ids), offsets, stored_lengths, plain_lengths

    def locate(self, const uint8_t[::1] ids not None, int64_t offset, int64_t chunk_size, int64_t end) -> memoryview:
        """Return the extents of neighbouring chunks as a batch of int64 rows (see dataplane.extent), readers being
        packs.

        `ids` has 32 bytes for each chunk; the first lies at `offset` of the disk, which ends at `end` (the last chunk
        may be clipped by it). Zero ids become one HOLE each run. Raises KeyError with the index of an id that is in
        no run, and ValueError when the chunks do not lie before `end` or an entry is not a whole chunk.
        """
        cdef Py_ssize_t count = ids.shape[0] // 32
        cdef object flat = array("q", bytes(count * sizeof(ExtentRow)))
        cdef int64_t[::1] cells = flat
        cdef ExtentRow* rows
        cdef ExtentRow* row
        cdef Py_ssize_t made = 0
        cdef Py_ssize_t i
        cdef Py_ssize_t r
        cdef int64_t bad = -1
        cdef const dp_run_entry* entry
        if ids.shape[0] % 32 or count < 1 or chunk_size < 1 or offset < 0 or end <= offset \
                or (end - offset - 1) // chunk_size < count - 1:
            raise ValueError(f"{ids.shape[0]} bytes of ids at {offset} do not lie on a disk of {end} bytes")
        rows = <ExtentRow*> &cells[0]
        for i in range(count):
            if memcmp(&ids[32 * i], ZERO_ID, 32) == 0:
                if made and rows[made - 1].kind == HOLE_EXTENT:
                    rows[made - 1].length += min(chunk_size, end - offset)
                else:
                    row = &rows[made]
                    row.offset = offset
                    row.length = min(chunk_size, end - offset)
                    row.kind = HOLE_EXTENT
                    made += 1
                offset += chunk_size
                continue
            entry = NULL
            for r in range(self.run_count):
                entry = (<Run> self.runs[r]).find(&ids[32 * i], &bad)
                if bad >= 0:
                    raise RunCorrupt(r, bad)
                if entry != NULL:
                    break
            if entry == NULL:
                raise KeyError(i)
            if entry.plain_length != chunk_size:
                raise ValueError(f"chunk {i} at {offset} has {entry.plain_length} bytes, not {chunk_size}")
            row = &rows[made]
            made += 1
            row.offset = offset
            row.length = min(chunk_size, end - offset)
            row.kind = DATA_EXTENT
            row.reader = self.bases_view[r] + entry.pack
            row.source_offset = entry.offset
            if entry.stored_length == entry.plain_length:
                row.codec = RAW
                row.source_length = row.length
            else:
                row.codec = ZSTD
                row.source_length = entry.stored_length
                row.decoded_length = chunk_size
            offset += chunk_size
        del cells
        return memoryview(flat)[: made * (sizeof(ExtentRow) // 8)].cast("B").cast("q", (made, sizeof(ExtentRow) // 8))
