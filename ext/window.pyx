"""A window: one thread's reusable buffer that executes extents and scans the chunks while they are in the cache."""

from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from mapped cimport dp_let_go, dp_look_at, dp_mapping_begin, dp_thread_seconds, dp_unmap

from dataplane._native.blockio cimport END_OF_FILE, pread_full, pread_some
from dataplane._native.codec cimport RAW, Decoder
from dataplane._native.plan cimport DATA_EXTENT, ExtentRow, Plan, PlanWindow
from dataplane._native.scan cimport ABSENT, BLAKE3_SIZE, DATA, LOADED, XXH3_SIZE, ZERO, scan_loaded

cdef enum:
    PIECE_SIZE = 256 << 10       # read at once and scanned before the next: stays in a second-level cache
    ENCODED_AHEAD = 256 << 10    # compressed pieces lie side by side: one read serves several
    CACHE_LINE = 64
    MAPPED_MIN = 256 << 10       # shorter ranges are not worth a mapping
    TRIALS = 16                  # so many ranges, every other one mapped, tell which way is quicker here
    COPIES = 32                  # so many ranges are copied when one is not in the page cache
    COPIED = 0                   # places in `pace`
    MAPPED = 1


class LoadFailure(Exception):
    """A window could not be loaded. `kind` is read, cut, decode or stage; `reader` the index of the reader at fault,
    `offset` the place there in bytes, `error` an errno (0 when there is none)."""

    def __init__(self, kind: str, reader: int, offset: int, error: int) -> None:
        super().__init__(f"{kind} of reader {reader} at {offset}, errno {error}")
        self.kind = kind
        self.reader = reader
        self.offset = offset
        self.error = error


cdef object aligned(Py_ssize_t size):
    """Return a writable view of `size` zero bytes that starts on a cache line, so that no vector load crosses two."""
    cdef bytearray room = bytearray(size + CACHE_LINE)
    cdef Py_ssize_t shift = -(<Py_ssize_t> <char*> room) & (CACHE_LINE - 1)
    return memoryview(room)[shift : shift + size]


cdef bint find_staged(const Staged* staged, const ExtentRow* row, int64_t offset, int64_t length,
                      const uint8_t** found) noexcept nogil:
    """Find `length` staged bytes from `offset` of the row's reader."""
    cdef Py_ssize_t i
    cdef const int64_t* segment
    for i in range(staged.count):
        segment = staged.rows + 4 * i
        if segment[0] == row.reader and segment[1] <= offset and offset - segment[1] <= segment[2] - length:
            found[0] = staged.bytes + segment[3] + (offset - segment[1])
            return True
    return False


cdef class Window:
    """A buffer of `size` bytes of the logical disk, with the state and digest of each of its chunks.

    `size` is a power of two and a multiple of `chunk_size`. With a 32-byte `key` digests are keyed BLAKE3-256,
    without one XXH3-128. Used by one thread at a time; `plain`, `digests` and `states` are views of memory that the
    next ``load`` overwrites. While `scan_only` is set, what lies in the page cache is scanned there, where that is
    quicker (`mapped_bytes` so far); there is no `plain` when a ``load`` has done so (`in_place`). After ``load``:
    `offset`, `length` (bytes of the disk), `chunk_count`, `data_chunks`, `zero_chunks` (read and found zero),
    `data_bytes` (chunks that are not zero, clipped to the end of the disk) and `read_bytes` (from the source).
    """

    def __cinit__(self, Py_ssize_t size, Py_ssize_t chunk_size, const uint8_t[::1] key=None, *,
                  bint scan_only=False):
        if chunk_size < 1 or size < chunk_size or size % chunk_size or size & (size - 1):
            raise ValueError(f"a window of {size} bytes does not hold whole chunks of {chunk_size}")
        if key is not None and key.shape[0] != BLAKE3_SIZE:
            raise ValueError(f"a BLAKE3 key has 32 bytes, not {key.shape[0]}")
        self.size = size
        self.chunk_size = chunk_size
        self.digest_size = XXH3_SIZE if key is None else BLAKE3_SIZE
        if key is not None:
            memcpy(self.key, &key[0], BLAKE3_SIZE)
        self._plain = aligned(size)
        self.room = &self._plain[0]
        self._digests = aligned(size // chunk_size * self.digest_size)
        self._states = aligned(size // chunk_size)
        self.decoder = Decoder()
        self.pace[COPIED] = self.pace[MAPPED] = 1.0
        self.set_scanning(scan_only)

    def __dealloc__(self):
        free(self.encoded)
        free(self.decoded)
        dp_unmap(&self.mapping)

    cdef void set_scanning(self, bint scanning):
        self.scanning = scanning
        if scanning:
            dp_mapping_begin()

    @property
    def scan_only(self) -> bool:
        """Whether the next ``load`` may scan without keeping what it reads."""
        return self.scanning

    @scan_only.setter
    def scan_only(self, bint scanning):
        self.set_scanning(scanning)

    @property
    def plain(self) -> memoryview:
        """The decoded bytes of the window's chunks; chunks that are ABSENT hold anything. Raises ValueError when the
        last ``load`` was `in_place`."""
        if self.in_place:
            raise ValueError("the window was scanned where it lies, and what was read is not kept")
        return memoryview(self._plain)[: self.chunk_count * self.chunk_size]

    @property
    def digests(self) -> memoryview:
        """One digest a chunk; rows of chunks without data are zeros."""
        return memoryview(self._digests)[: self.chunk_count * self.digest_size]

    @property
    def states(self) -> memoryview:
        """One ChunkState a chunk."""
        return memoryview(self._states)[: self.chunk_count]

    cdef int prepare(self, Plan plan) except -1:
        """Make room for what the plan's compressed rows need."""
        cdef int64_t encoded_room = max(plan.source_length_max, <int64_t> ENCODED_AHEAD)
        if plan.window_size != self.size:
            raise ValueError(f"a plan with windows of {plan.window_size} bytes does not fit a window of {self.size}")
        if plan.decoded_length_max == 0:
            return 0
        if encoded_room > self.encoded_room:
            free(self.encoded)
            self.encoded_room = 0
            self.encoded = <uint8_t*> malloc(encoded_room)
            if self.encoded == NULL:
                raise MemoryError(f"no memory for {encoded_room} bytes of compressed data")
            self.encoded_room = encoded_room
        if plan.decoded_length_max > self.decoded_room:
            free(self.decoded)
            self.decoded_room = 0
            self.decoded = <uint8_t*> malloc(plan.decoded_length_max)
            if self.decoded == NULL:
                raise MemoryError(f"no memory for {plan.decoded_length_max} bytes of decoded data")
            self.decoded_room = plan.decoded_length_max
        # A plan of a few chunks needs less than one read can bring.
        self.encoded_ahead = min(self.encoded_room, max(plan.encoded_bytes, plan.source_length_max))
        self.encoded_length = 0
        self.decoded_length = 0
        return 0

    def load(self, Plan plan not None, Py_ssize_t index, const int[::1] fds not None,
             const int64_t[:, ::1] staged=None, const uint8_t[::1] staging=None) -> int:
        """Load and scan window `index` of `plan`; return how many chunks hold data. The GIL is released.

        `fds` has a descriptor for each reader, or -1 for one whose bytes are in `staging`: rows of `staged` are
        (reader, source offset, length, position in `staging`). Raises LoadFailure when the source cannot be read or
        decoded, ValueError or IndexError when the arguments do not fit each other.
        """
        cdef Staged stage
        cdef bint loaded
        cdef const int* descriptors = NULL
        if not 0 <= index < plan.window_count:
            raise IndexError(f"window {index} of a plan with {plan.window_count}")
        if plan.reader_max >= fds.shape[0]:
            raise ValueError(f"the plan names reader {plan.reader_max}, there are {fds.shape[0]}")
        memset(&stage, 0, sizeof(stage))
        if staged is not None and staging is not None and staging.shape[0] and staged.shape[0]:
            if staged.shape[1] != 4:
                raise ValueError(f"staged rows have 4 columns, not {staged.shape[1]}")
            for i in range(staged.shape[0]):
                if staged[i, 1] < 0 or staged[i, 2] < 0 or staged[i, 3] < 0 \
                        or staged[i, 2] > staging.shape[0] or staged[i, 3] > staging.shape[0] - staged[i, 2]:
                    raise ValueError(f"staged range {i} leaves the {staging.shape[0]} bytes handed over")
            stage.rows = &staged[0, 0]
            stage.count = staged.shape[0]
            stage.bytes = &staging[0]
        self.prepare(plan)
        descriptors = &fds[0]
        with nogil:
            loaded = self.fill(plan.rows(), plan.locate(index), descriptors, &stage)
        if not loaded:
            raise self.failure_error()
        return self.data_chunks

    def load_into(self, Plan plan not None, const int[::1] fds not None, uint8_t[::1] target not None) -> int:
        """Do what ``load`` does with a plan of one window, straight into `target`, and leave `plain` alone.

        `target` holds what the plan covers, which has to be whole chunks; those without data are left as they are.
        Raises LoadFailure, and ValueError when the arguments do not fit each other.
        """
        cdef Staged stage
        cdef bint loaded
        cdef PlanWindow place
        cdef const int* descriptors
        if self.scanning:
            raise ValueError("a window that only scans does not keep what it reads")
        if plan.window_count != 1 or plan.reader_max >= fds.shape[0]:
            raise ValueError(f"a plan of {plan.window_count} windows that names reader {plan.reader_max} "
                             f"does not fit one target and {fds.shape[0]} readers")
        place = plan.locate(0)
        if plan.offset < place.offset or plan.end > place.offset + self.size or plan.offset % self.chunk_size \
                or target.shape[0] != plan.end - plan.offset or target.shape[0] % self.chunk_size:
            raise ValueError(f"{target.shape[0]} bytes are not the whole chunks of {self.chunk_size} bytes "
                             f"from {plan.offset} to {plan.end}")
        memset(&stage, 0, sizeof(stage))
        self.prepare(plan)
        self.room = &target[0] - (plan.offset - place.offset)
        descriptors = &fds[0]
        with nogil:
            loaded = self.fill(plan.rows(), place, descriptors, &stage)
        self.room = &self._plain[0]
        if not loaded:
            raise self.failure_error()
        return self.data_chunks

    def first_mismatch(self, const uint8_t[::1] expected not None) -> int:
        """Return the first chunk whose digest is not its row of `expected`, or -1. An all-zero row stands for zeros.

        Raises ValueError when `expected` has another number of rows.
        """
        cdef Py_ssize_t i
        cdef Py_ssize_t found = -1
        cdef int size = self.digest_size
        if expected.shape[0] != self.chunk_count * size:
            raise ValueError(f"{self.chunk_count} chunks have {self.chunk_count * size} bytes of digests, "
                             f"not {expected.shape[0]}")
        with nogil:
            for i in range(self.chunk_count):
                # Rows of chunks without data are zeros, so one comparison serves both.
                if memcmp(&self._digests[i * size], &expected[i * size], size) != 0:
                    found = i
                    break
        return found

    cdef bint fail(self, int fault, const ExtentRow* row, int64_t source_offset, int error) noexcept nogil:
        self.failure.fault = fault
        self.failure.error = error
        self.failure.reader = row.reader
        self.failure.source_offset = source_offset
        return False

    cdef object failure_error(self):
        kind = {READ_FAILED: "read", CUT_SHORT: "cut", NOT_DECODABLE: "decode", NOT_STAGED: "stage"}
        return LoadFailure(kind[self.failure.fault], self.failure.reader, self.failure.source_offset,
                           self.failure.error)

    cdef bint fill(self, const ExtentRow* rows, PlanWindow window, const int* fds, const Staged* staged) noexcept nogil:
        """Execute the rows of a window, scanning chunks as they are complete; False when it failed."""
        cdef Py_ssize_t i
        cdef const ExtentRow* row
        cdef int64_t start
        cdef int64_t stop
        cdef bint copied
        self.offset = window.offset
        self.length = window.length
        self.chunk_count = (window.length + self.chunk_size - 1) // self.chunk_size
        self.filled = 0
        self.scanned = 0
        self.read_bytes = 0
        self.in_place = False
        memset(&self._states[0], ABSENT, self.chunk_count)
        memset(&self._digests[0], 0, self.chunk_count * self.digest_size)
        for i in range(window.first, window.last):
            row = &rows[i]
            if row.kind != DATA_EXTENT:
                continue
            start = max(row.offset, window.offset) - window.offset
            stop = min(row.offset + row.length, window.offset + window.length) - window.offset
            if start >= stop:
                continue
            self.open_at(start)
            if row.codec == RAW and self.scanning and fds[row.reader] >= 0 and stop - start >= MAPPED_MIN \
                    and start % self.chunk_size == 0:
                copied = self.read_raw(row, start, stop, fds[row.reader])
            elif row.codec == RAW:
                copied = self.copy_raw(row, start, stop, fds[row.reader], staged)
            else:
                copied = self.copy_decoded(row, start, stop, fds[row.reader], staged)
            if not copied:
                return False
        self.open_at(self.chunk_count * self.chunk_size)
        self.scan_until(self.chunk_count)
        self.count_states()
        return True

    cdef void open_at(self, int64_t start) noexcept nogil:
        """Zero what no extent covers between the last byte filled and `start`, in chunks that hold data on either
        side."""
        cdef int64_t chunk_end = (self.filled + self.chunk_size - 1) // self.chunk_size * self.chunk_size
        cdef int64_t chunk_start = start // self.chunk_size * self.chunk_size
        if self.filled < start:
            if chunk_end > start:
                chunk_end = start
            memset(self.room + self.filled, 0, chunk_end - self.filled)
            if chunk_start < chunk_end:
                chunk_start = chunk_end
            memset(self.room + chunk_start, 0, start - chunk_start)
            self.filled = start

    cdef void advance(self, int64_t stop) noexcept nogil:
        """Note that bytes up to `stop` are filled, and scan the chunks that are complete."""
        cdef Py_ssize_t first = self.filled // self.chunk_size
        cdef Py_ssize_t last = (stop - 1) // self.chunk_size
        memset(&self._states[0] + first, LOADED, last + 1 - first)
        self.filled = stop
        self.scan_until(stop // self.chunk_size)

    cdef void scan_until(self, Py_ssize_t chunk) noexcept nogil:
        if chunk > self.scanned:
            scan_loaded(self.room + self.scanned * self.chunk_size, chunk - self.scanned, self.chunk_size,
                        self.digest_size, self.key, &self._digests[0] + self.scanned * self.digest_size,
                        &self._states[0] + self.scanned)
            self.scanned = chunk

    cdef void count_states(self) noexcept nogil:
        cdef Py_ssize_t i
        self.data_chunks = 0
        self.zero_chunks = 0
        for i in range(self.chunk_count):
            self.data_chunks += self._states[i] == DATA
            self.zero_chunks += self._states[i] == ZERO
        self.data_bytes = self.data_chunks * self.chunk_size
        if self._states[self.chunk_count - 1] == DATA:
            self.data_bytes -= self.chunk_count * self.chunk_size - self.length

    cdef bint read_raw(self, const ExtentRow* row, int64_t start, int64_t stop, int fd) noexcept nogil:
        """Read the row's bytes for [start, stop) of the window, mapped or copied: as took less processor time a byte in
        the first ranges. Which it is depends on the processor, and on how large the cache's pages are."""
        cdef bint on_trial = self.trials < TRIALS
        cdef int way = self.trials & 1 if on_trial else self.pace[MAPPED] < self.pace[COPIED]
        cdef double begun = dp_thread_seconds() if on_trial else 0
        cdef double pace
        cdef int64_t mapped = 0
        if self.copies_left > 0:
            self.copies_left -= 1
            return self.copy_raw(row, start, stop, fd, NULL)
        if way == MAPPED:
            mapped = self.scan_mapped(start, stop, row.source_offset + self.offset - row.offset, fd)
            if mapped == 0:
                self.copies_left = COPIES
        if not self.copy_raw(row, start + mapped, stop, fd, NULL):
            return False
        if on_trial and (way == COPIED or mapped > 0):
            pace = (dp_thread_seconds() - begun) / (stop - start)
            self.pace[way] = min(self.pace[way], pace)
            self.trials += 1
        return True

    cdef int64_t scan_mapped(self, int64_t start, int64_t stop, int64_t shift, int fd) noexcept nogil:
        """Scan the whole chunks from `start`, where one begins, in the page cache; return the bytes, 0 for none."""
        cdef Py_ssize_t first = start // self.chunk_size
        cdef Py_ssize_t count = (stop - start) // self.chunk_size
        cdef int64_t length = count * self.chunk_size
        cdef const uint8_t* bytes
        if count == 0:
            return 0
        self.scan_until(first)
        bytes = dp_look_at(&self.mapping, fd, shift + start, length)
        if bytes == NULL:
            return 0
        memset(&self._states[0] + first, LOADED, count)
        scan_loaded(bytes, count, self.chunk_size, self.digest_size, self.key,
                    &self._digests[0] + first * self.digest_size, &self._states[0] + first)
        if not dp_let_go(&self.mapping):  # reading it will tell what is wrong
            memset(&self._states[0] + first, ABSENT, count)
            memset(&self._digests[0] + first * self.digest_size, 0, count * self.digest_size)
            return 0
        self.filled = start + length
        self.scanned = first + count
        self.in_place = True
        self.read_bytes += length
        self.mapped_bytes += length
        return length

    cdef bint copy_raw(self, const ExtentRow* row, int64_t start, int64_t stop, int fd,
                       const Staged* staged) noexcept nogil:
        """Copy the row's bytes for [start, stop) of the window, piece by piece."""
        cdef int64_t shift = row.source_offset + self.offset - row.offset
        cdef int64_t piece_stop
        cdef const uint8_t* found
        cdef int error
        while start < stop:
            piece_stop = min(stop, start - start % PIECE_SIZE + PIECE_SIZE)
            if fd >= 0:
                error = pread_full(fd, self.room + start, piece_stop - start, shift + start)
                if error != 0:
                    return self.fail(CUT_SHORT if error == END_OF_FILE else READ_FAILED, row, shift + start,
                                     0 if error == END_OF_FILE else error)
            elif find_staged(staged, row, shift + start, piece_stop - start, &found):
                memcpy(self.room + start, found, piece_stop - start)
            else:
                return self.fail(NOT_STAGED, row, shift + start, 0)
            self.read_bytes += piece_stop - start
            self.advance(piece_stop)
            start = piece_stop
        return True

    cdef bint copy_decoded(self, const ExtentRow* row, int64_t start, int64_t stop, int fd,
                           const Staged* staged) noexcept nogil:
        """Decode the row's bytes for [start, stop) of the window, in place when the whole piece belongs there."""
        cdef int64_t skip = row.decoded_offset + self.offset + start - row.offset
        cdef bint whole = skip == 0 and stop - start == row.decoded_length
        cdef bint cached = self.decoded_length == row.decoded_length and self.decoded_reader == row.reader \
            and self.decoded_source == row.source_offset
        cdef uint8_t* target = self.room + start if whole else self.decoded
        cdef const uint8_t* encoded
        if whole or not cached:
            encoded = self.fetch_encoded(row, fd, staged)
            if encoded == NULL:
                return False
            if not whole:
                self.decoded_length = 0
            if not self.decoder.decode(<int> row.codec, encoded, row.source_length, target, row.decoded_length):
                return self.fail(NOT_DECODABLE, row, row.source_offset, 0)
        if not whole:
            self.decoded_reader = row.reader
            self.decoded_source = row.source_offset
            self.decoded_length = row.decoded_length
            memcpy(self.room + start, self.decoded + skip, stop - start)
        self.advance(stop)
        return True

    cdef const uint8_t* fetch_encoded(self, const ExtentRow* row, int fd, const Staged* staged) noexcept nogil:
        """Return the row's encoded bytes, or NULL after noting the failure."""
        cdef const uint8_t* found = NULL
        cdef int error
        self.read_bytes += row.source_length  # what was asked for, not what one read for several brought along
        if fd < 0:
            if not find_staged(staged, row, row.source_offset, row.source_length, &found):
                self.fail(NOT_STAGED, row, row.source_offset, 0)
            return found
        if self.encoded_reader != row.reader or row.source_offset < self.encoded_offset \
                or row.source_offset + row.source_length > self.encoded_offset + self.encoded_length:
            self.encoded_length = 0
            error = pread_some(fd, self.encoded, self.encoded_ahead, row.source_length, row.source_offset,
                               &self.encoded_length)
            if error != 0:
                self.encoded_length = 0
                self.fail(CUT_SHORT if error == END_OF_FILE else READ_FAILED, row, row.source_offset,
                          0 if error == END_OF_FILE else error)
                return NULL
            self.encoded_reader = row.reader
            self.encoded_offset = row.source_offset
        return self.encoded + (row.source_offset - self.encoded_offset)
