"""A plan: one batch of extents, checked row by row, and the windows of the logical disk in which it has data."""

from libc.stdint cimport INT64_MAX, int64_t
from libc.stdlib cimport free, realloc

from dataplane._native.codec cimport RAW, ZSTD

cdef enum:
    COLUMN_COUNT = sizeof(ExtentRow) // sizeof(int64_t)


cdef const char* fault(const ExtentRow* row, int64_t expected_offset, int64_t decoded_size_max) noexcept nogil:
    """Return what is wrong with a row, or NULL."""
    if row.offset != expected_offset:
        return b"does not start where the one before it ends"
    if row.length <= 0 or row.length > INT64_MAX - row.offset:
        return b"is not a byte range"
    if row.kind == HOLE_EXTENT or row.kind == ZERO_EXTENT:
        return NULL
    if row.kind != DATA_EXTENT or row.codec < RAW or row.codec > ZSTD:
        return b"has an unknown kind or codec"
    if row.reader < 0 or row.source_offset < 0 or row.source_length <= 0 \
            or row.source_length > INT64_MAX - row.source_offset:
        return b"has a source range that is not one"
    if row.codec == RAW:
        if row.source_length != row.length:
            return b"has a source range of another length"
        return NULL
    if row.decoded_length <= 0 or row.decoded_length > decoded_size_max or row.decoded_offset < 0 \
            or row.length > row.decoded_length or row.decoded_offset > row.decoded_length - row.length:
        return b"leaves what its source decodes to"
    if row.source_length > 2 * decoded_size_max:
        return b"has an encoded form out of proportion"
    return NULL


cdef class Plan:
    """A checked batch of extents, cut into windows of `window_size` bytes that hold data.

    `batch` is what ``ImageSource.extents`` yields; it stays borrowed for the life of the plan. Windows start at
    multiples of `window_size` and hold at least one DATA row; holes and zeros between them cost nothing. No
    compressed row may decode to more than `decoded_size_max` bytes.

    Raises ValueError when a row does not start where the one before it ends, is not a byte range, or asks for
    something out of bounds: a defect of the format that made it, since formats check what they read.
    """

    def __cinit__(self, const int64_t[:, ::1] batch not None, Py_ssize_t window_size, int64_t decoded_size_max):
        if window_size < 1 or window_size & (window_size - 1):
            raise ValueError(f"a window of {window_size} bytes is not a power of two")
        if batch.shape[0] < 1 or batch.shape[1] != COLUMN_COUNT:
            raise ValueError(f"a batch has rows of {COLUMN_COUNT} columns, not a shape of "
                             f"{batch.shape[0]} x {batch.shape[1]}")
        self.batch = batch
        self.window_size = window_size
        self.check_rows(decoded_size_max)
        self.cut_windows()

    def __dealloc__(self):
        free(self.runs)

    cdef const ExtentRow* rows(self) noexcept nogil:
        return <const ExtentRow*> &self.batch[0, 0]

    cdef int check_rows(self, int64_t decoded_size_max) except -1:
        """Check every row and gather the totals."""
        cdef const ExtentRow* rows = self.rows()
        cdef Py_ssize_t count = self.batch.shape[0]
        cdef Py_ssize_t i = 0
        cdef const char* wrong = NULL
        self.offset = rows[0].offset
        self.reader_max = -1
        if self.offset < 0:
            raise ValueError(f"extent 0 at {self.offset} is not a byte range")
        self.end = self.offset
        with nogil:
            for i in range(count):
                wrong = fault(&rows[i], self.end, decoded_size_max)
                if wrong != NULL:
                    break
                self.end += rows[i].length
                if rows[i].kind == DATA_EXTENT:
                    self.data_bytes += rows[i].length
                    self.reader_max = max(self.reader_max, <Py_ssize_t> rows[i].reader)
                    if rows[i].codec != RAW:
                        self.decoded_length_max = max(self.decoded_length_max, rows[i].decoded_length)
                        self.source_length_max = max(self.source_length_max, rows[i].source_length)
                        self.encoded_bytes += rows[i].source_length
        if wrong != NULL:
            raise ValueError(f"extent {i} at {rows[i].offset} with length {rows[i].length} {wrong.decode()}")
        return 0

    cdef int cut_windows(self) except -1:
        """Find the windows that hold a DATA row; a row over many whole windows is one run of them."""
        cdef const ExtentRow* rows = self.rows()
        cdef Py_ssize_t i
        cdef int64_t start
        cdef int64_t stop
        cdef WindowRun* run = NULL
        cdef bint enough = True
        with nogil:
            for i in range(self.batch.shape[0]):
                if rows[i].kind != DATA_EXTENT:
                    continue
                stop = rows[i].offset + rows[i].length
                start = rows[i].offset - rows[i].offset % self.window_size
                if self.run_count and self.last_window_at() == start:
                    # The row shares its first window with an earlier one: that window gets a run of its own.
                    run = &self.runs[self.run_count - 1]
                    if run.count > 1:
                        run.count -= 1
                        enough = self.add_run(start, 1, run.last - 1)
                        if not enough:
                            break
                        run = &self.runs[self.run_count - 1]
                    run.last = i + 1
                    if stop - start <= self.window_size:
                        continue
                    start += self.window_size
                # Counted so that no sum leaves 64 bits, however near to their end a row lies.
                enough = self.add_run(start, 1 + (stop - start - 1) // self.window_size, i)
                if not enough:
                    break
        if not enough:
            raise MemoryError(f"no memory for a plan of {self.run_count} runs of windows")
        if self.run_count:
            run = &self.runs[self.run_count - 1]
            self.window_count = run.first_window + run.count
        return 0

    cdef int64_t last_window_at(self) noexcept nogil:
        """Return the offset of the last window there is."""
        cdef WindowRun* run = &self.runs[self.run_count - 1]
        return run.offset + (run.count - 1) * self.window_size

    cdef bint add_run(self, int64_t offset, Py_ssize_t count, Py_ssize_t row) noexcept nogil:
        """Append `count` windows from `offset` that begin with `row`; return False when memory is short."""
        cdef WindowRun* larger
        cdef WindowRun* run
        if self.run_count == self.run_room:
            larger = <WindowRun*> realloc(self.runs, (2 * self.run_room + 64) * sizeof(WindowRun))
            if larger == NULL:
                return False
            self.runs = larger
            self.run_room = 2 * self.run_room + 64
        run = &self.runs[self.run_count]
        run.offset = offset
        run.count = count
        run.first = row
        run.last = row + 1
        run.first_window = 0
        if self.run_count:
            run.first_window = self.runs[self.run_count - 1].first_window + self.runs[self.run_count - 1].count
        self.run_count += 1
        return True

    cdef PlanWindow locate(self, Py_ssize_t index) noexcept nogil:
        """Return window `index`, which must exist."""
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = self.run_count
        cdef Py_ssize_t middle
        cdef PlanWindow window
        while high - low > 1:
            middle = (low + high) // 2
            if self.runs[middle].first_window <= index:
                low = middle
            else:
                high = middle
        window.offset = self.runs[low].offset + (index - self.runs[low].first_window) * self.window_size
        window.length = min(<int64_t> self.window_size, self.end - window.offset)
        window.first = self.runs[low].first
        window.last = self.runs[low].last
        return window

    def window(self, Py_ssize_t index) -> tuple[int, int]:
        """Return (offset, length) of window `index` on the logical disk, in bytes. Raises IndexError."""
        if not 0 <= index < self.window_count:
            raise IndexError(f"window {index} of a plan with {self.window_count}")
        cdef PlanWindow window = self.locate(index)
        return window.offset, window.length

    def readers(self) -> list[int]:
        """Return the indexes of the readers that DATA rows name, ascending."""
        cdef const ExtentRow* rows = self.rows()
        cdef int64_t last = -1
        cdef set found = set()
        cdef Py_ssize_t i
        for i in range(self.batch.shape[0]):
            if rows[i].kind == DATA_EXTENT and rows[i].reader != last:
                last = rows[i].reader
                found.add(last)
        return sorted(found)

    def source_ranges(self, Py_ssize_t index) -> list[tuple[int, int, int]]:
        """Return the (reader, offset, length) that window `index` reads, in the order of its rows. Raises IndexError.

        For readers without a file descriptor: their bytes are fetched first and handed to ``Window.load``.
        """
        if not 0 <= index < self.window_count:
            raise IndexError(f"window {index} of a plan with {self.window_count}")
        cdef const ExtentRow* rows = self.rows()
        cdef PlanWindow window = self.locate(index)
        cdef int64_t start
        cdef int64_t stop
        cdef list ranges = []
        for i in range(window.first, window.last):
            if rows[i].kind != DATA_EXTENT:
                continue
            if rows[i].codec != RAW:
                ranges.append((rows[i].reader, rows[i].source_offset, rows[i].source_length))
                continue
            start = max(rows[i].offset, window.offset)
            stop = min(rows[i].offset + rows[i].length, window.offset + window.length)
            ranges.append((rows[i].reader, rows[i].source_offset + start - rows[i].offset, stop - start))
        return ranges
