"""Runs: looking chunk ids up in mapped run files."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from run_entry cimport ENTRY_SIZE, FILTER_BLOCK_SIZE, dp_filter_bit, dp_interpolate, dp_key, dp_order, dp_run_entry, \
    dp_scale, dp_word

from dataplane._native.plan cimport DATA_EXTENT, HOLE_EXTENT, ExtentRow
from dataplane._native.codec cimport RAW, ZSTD
from dataplane._native.scan cimport BLAKE3_SIZE, NEW, STORED, XXH3_SIZE, xxh3_128
from dataplane._native.table cimport DigestTable

from array import array

cdef extern from *:
    void prefetch "__builtin_prefetch" (const void* place) noexcept nogil

cdef enum:
    BLOCK_BITS = 16  # a checksum guards each 64 KiB of a run
    PROBES_MAX = 12
    LANES = 32  # searches under way at once

cdef uint8_t[32] ZERO_ID


class RunCorrupt(Exception):
    """A block of a run file does not match its checksum. `run` is the index of the run, `offset` the block's place in
    it."""

    def __init__(self, run: int, offset: int) -> None:
        super().__init__(f"run {run} at {offset}")
        self.run = run
        self.offset = offset


cdef class Run:
    """One mapped run file, looked up in place; each 64 KiB block is checked against its checksum when first touched.

    `data` is the whole file; the offsets come from its header, and the caller has checked the header and the table of
    checksums. `covered` is how many bytes from the start the checksums guard. `dead` has a flag for each pack: entries
    of packs with one are not found. Raises ValueError for sections that
    leave the file or the guarded part.
    """

    def __cinit__(self, const uint8_t[::1] data not None, *, uint64_t filter_offset, uint64_t filter_blocks,
                  uint64_t entries_offset, uint64_t entry_count, uint64_t sums_offset, uint64_t covered,
                  uint32_t pack_count, const uint8_t[::1] dead=None):
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
        if dead is not None:
            if dead.shape[0] != pack_count:
                raise ValueError(f"{dead.shape[0]} flags do not fit {pack_count} packs")
            self.dead = <uint8_t*> calloc(pack_count + 1, 1)
            if self.dead == NULL:
                raise MemoryError("no memory to open a run")
            for i in range(pack_count):
                self.dead[i] = dead[i]

    def __dealloc__(self):
        free(self.checked)
        free(self.dead)

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
        """Return the entry of `id` unless its pack is dead, or NULL; see ``seek``."""
        cdef const dp_run_entry* entry = self.seek(id, bad)
        return entry if entry != NULL and self.live(entry) else NULL

    cdef bint live(self, const dp_run_entry* entry) noexcept nogil:
        """Tell whether the pack of an entry counts."""
        return entry.pack < self.pack_count and not (self.dead != NULL and self.dead[entry.pack])

    cdef const dp_run_entry* seek(self, const uint8_t* id, int64_t* bad) noexcept nogil:
        """Return the entry of `id`, or NULL; `bad` is set to the offset of a damaged block, else left alone."""
        cdef Search search
        cdef bint more
        if self.entry_count == 0 or not self.passes(id, bad):
            return NULL
        more = self.begin(&search, id)
        while more:
            if not self.look(&search, bad):
                return NULL
            if search.order == 0:
                return self.entries + search.guess
            more = self.aim(&search)
        return NULL

    cdef const uint32_t* filter_block(self, const uint8_t* id) noexcept nogil:
        """Return the block of the filter, 8 words, that has the bits of `id`; there have to be entries."""
        return <const uint32_t*> self.filter + 8 * dp_scale(dp_word(id + 8), self.filter_blocks)

    cdef bint passes(self, const uint8_t* id, int64_t* bad) noexcept nogil:
        """Tell whether the filter lets `id` through; False and `bad` for a damaged block."""
        cdef const uint32_t* block = self.filter_block(id)
        cdef int word
        if not self.touch(block, FILTER_BLOCK_SIZE, bad):
            return False
        for word in range(8):
            if not block[word] & dp_filter_bit(id, word):
                return False
        return True

    # A search interpolates, since ids are uniform: four or five looks among millions. Ids that are not, which only a
    # damaged or forged run has, are found by halving after that. It is cut into steps at its looks at memory, so that
    # several can be under way: see mark_lanes.

    cdef bint begin(self, Search* search, const uint8_t* id) noexcept nogil:
        """Start a search for `id`; False when there is nothing to look at."""
        search.id = id
        search.low = 0
        search.high = self.entry_count
        search.low_key = 0
        search.high_key = ~<uint64_t> 0
        search.probes = 0
        search.order = 0
        return self.aim(search)

    cdef bint aim(self, Search* search) noexcept nogil:
        """Choose where to look next; False when the id is in no entry."""
        cdef uint64_t size = search.high - search.low
        if search.low >= search.high:
            return False
        if search.probes >= PROBES_MAX or size <= 4 or search.high_key <= search.low_key:
            search.guess = search.low + size // 2
            return True
        search.guess = search.low + dp_interpolate(
            dp_key(search.id) - search.low_key, search.high_key - search.low_key, size
        )
        search.guess = min(search.guess, search.high - 1)
        search.probes += 1
        return True

    cdef bint look(self, Search* search, int64_t* bad) noexcept nogil:
        """Compare the entry aimed at; an order of 0 means that it is the id's. False and `bad` for a damaged block."""
        cdef const dp_run_entry* entry = self.entries + search.guess
        if not self.touch(entry, ENTRY_SIZE, bad):
            return False
        search.order = dp_order(entry.id, search.id)
        if search.order < 0:
            search.low = search.guess + 1
            search.low_key = dp_key(entry.id)
        elif search.order > 0:
            search.high = search.guess
            search.high_key = dp_key(entry.id)
        return True


cdef int mark_lanes(Run run, const uint8_t* ids, uint8_t* states, const Py_ssize_t* lanes, int count,
                    int64_t* stored_bytes, int64_t* bad) noexcept nogil:
    """Make STORED the states of those of `count` ids, at the indexes in `lanes`, that are in a run; return how many.

    A look at a large run waits for memory, so all ids take each step together, and every look is fetched a round
    ahead (Kocberber and others, Asynchronous Memory Access Chaining, VLDB 2015). Stops at a damaged block.
    """
    cdef Search[LANES] searches
    cdef const dp_run_entry* entry
    cdef int active = 0
    cdef int kept
    cdef int found = 0
    cdef int lane
    for lane in range(count):
        prefetch(run.filter_block(ids + 32 * lanes[lane]))
    for lane in range(count):
        if run.passes(ids + 32 * lanes[lane], bad) and run.begin(&searches[active], ids + 32 * lanes[lane]):
            searches[active].index = lanes[lane]
            prefetch(run.entries + searches[active].guess)
            active += 1
        elif bad[0] >= 0:
            return found
    while active:
        kept = 0
        for lane in range(active):
            if not run.look(&searches[lane], bad):
                return found
            if searches[lane].order == 0:
                entry = run.entries + searches[lane].guess
                if run.live(entry):
                    states[searches[lane].index] = STORED
                    stored_bytes[0] += entry.stored_length
                    found += 1
            elif run.aim(&searches[lane]):
                prefetch(run.entries + searches[lane].guess)
                searches[kept] = searches[lane]
                kept += 1
        active = kept
    return found


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
        cdef Py_ssize_t[LANES] lanes
        cdef int taken
        if ids.shape[0] != 32 * count:
            raise ValueError(f"{count} states need {32 * count} bytes of ids, not {ids.shape[0]}")
        for r in range(self.run_count):
            run = <Run> self.runs[r]
            if run.entry_count == 0:
                continue
            with nogil:
                i = 0
                while i < count and bad < 0:
                    taken = 0
                    while i < count and taken < LANES:
                        if states[i] == NEW:
                            lanes[taken] = i
                            taken += 1
                        i += 1
                    found += mark_lanes(run, &ids[0], &states[0], lanes, taken, &stored_bytes, &bad)
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

    def resolve(self, const uint8_t[::1] ids not None, DigestTable wanted not None, uint32_t pack) -> bytes:
        """Return one byte for each id: 1 when it is in `wanted` and a look-up of it ends in pack number `pack`.

        Raises ValueError when `ids` is not a whole number of 32-byte ids or `wanted` holds others.
        """
        cdef Py_ssize_t count = ids.shape[0] // 32
        cdef bytearray made = bytearray(count)
        cdef uint8_t* flags = <uint8_t*> <char*> made
        cdef int64_t bad = -1
        cdef Py_ssize_t i
        cdef Py_ssize_t r
        cdef const dp_run_entry* entry
        if ids.shape[0] % 32 or wanted.key_size != 32:
            raise ValueError("ids have 32 bytes")
        for i in range(count):
            if not wanted.contains(&ids[32 * i]):
                continue
            for r in range(self.run_count):
                entry = (<Run> self.runs[r]).find(&ids[32 * i], &bad)
                if bad >= 0:
                    raise RunCorrupt(r, bad)
                if entry != NULL:
                    flags[i] = self.bases_view[r] + entry.pack == pack
                    break
        return bytes(made)

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
