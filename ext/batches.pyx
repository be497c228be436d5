# cython: boundscheck=True
"""Batches of extents built row by row: gaps become holes, neighbours merge, ends meet windows; layers too."""

from libc.stdint cimport INT64_MAX, int64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from dataplane._native.allocation cimport Allocation
from dataplane._native.codec cimport RAW
from dataplane._native.plan cimport DATA_EXTENT, HOLE_EXTENT, ZERO_EXTENT, ExtentRow

cdef enum:
    COLUMN_COUNT = sizeof(ExtentRow) // sizeof(int64_t)
    SECTOR_SIZE = 512


class MapFault(ValueError):
    """A table of an image breaks the rules of its format; the text says which place of the disk, and how."""


cdef bint continues(const ExtentRow* left, const ExtentRow* right) noexcept:
    """Tell whether two neighbours on the disk are one extent."""
    if left.kind != right.kind or left.offset + left.length != right.offset:
        return False
    if left.kind != DATA_EXTENT:
        return True
    return left.codec == RAW and right.codec == RAW and left.reader == right.reader \
        and left.source_offset + left.source_length == right.source_offset


cdef void cut(ExtentRow* row, int64_t start, int64_t stop) noexcept:
    """Shrink a row to the part from `start` to `stop` of the disk, which it holds."""
    cdef int64_t skipped = start - row.offset
    row.offset = start
    row.length = stop - start
    if row.kind == DATA_EXTENT:
        if row.codec == RAW:
            row.source_offset += skipped
            row.source_length = row.length
        else:
            row.decoded_offset += skipped


cdef int append_zero(BatchBuilder rows, int64_t offset, int64_t length) except -1:
    cdef ExtentRow row
    memset(&row, 0, sizeof(row))
    row.offset = offset
    row.length = length
    row.kind = ZERO_EXTENT
    return rows.append(&row)


cdef int64_t append_data(
    BatchBuilder rows, int64_t offset, int64_t length, int64_t reader, int64_t place,
) except -1:
    cdef Allocation allocation = rows.allocation
    cdef int64_t done = 0
    cdef int64_t named = 0
    cdef int64_t size
    cdef int64_t stop
    cdef bint is_data
    if allocation is None:
        push_data(rows, offset, length, reader, place)
        return length
    while done < length:
        is_data = allocation.holds(place + done, &stop)
        size = min(stop - place, length) - done
        # The disk is cut at sectors: data takes the whole of one that it shares with a hole.
        if is_data:
            size = (size + SECTOR_SIZE - 1) // SECTOR_SIZE * SECTOR_SIZE
        elif done + size < length:
            size = size // SECTOR_SIZE * SECTOR_SIZE
            if size == 0:
                is_data = True
                size = SECTOR_SIZE
        size = min(size, length - done)
        if is_data:
            push_data(rows, offset + done, size, reader, place + done)
            named += allocation.data_in(place + done, size)
        else:
            append_zero(rows, offset + done, size)
        done += size
    return named


cdef int push_data(BatchBuilder rows, int64_t offset, int64_t length, int64_t reader, int64_t place) except -1:
    cdef ExtentRow row
    memset(&row, 0, sizeof(row))
    row.offset = offset
    row.length = length
    row.kind = DATA_EXTENT
    row.reader = reader
    row.source_offset = place
    row.source_length = length
    return rows.append(&row)


cdef class BatchBuilder:
    """Rows of extents in the order of the disk, given out as batches that ``ImageSource.extents`` may yield.

    What the rows leave out is HOLE; rows that continue each other are one. Batches end on multiples of `window_size`
    bytes and have at most `rows_max` rows. Compressed rows must not cross a multiple of `window_size`, and no window
    may take more than `rows_max` rows. Kernels that decode tables add ranges of a file that `allocation` knows to be
    holes as zeros; it is that of the file they name, or None. `end` is where the rows held end, `given` where the
    batches given out end, in bytes.
    """

    def __cinit__(self, int64_t window_size, Py_ssize_t rows_max):
        if window_size < 1 or rows_max < 1:
            raise ValueError(f"no batches of {rows_max} rows that end on multiples of {window_size} bytes")
        self.window_size = window_size
        self.rows_max = rows_max

    def __dealloc__(self):
        free(self.rows)

    def add(self, int64_t offset, int64_t length, int64_t kind, int64_t codec=0, int64_t reader=0,
            int64_t source_offset=0, int64_t source_length=0, int64_t decoded_offset=0, int64_t decoded_length=0):
        """Append one row; the arguments are the columns of an extent. Raises ValueError unless it lies behind the
        rows that are there."""
        cdef ExtentRow row
        row.offset = offset
        row.length = length
        row.kind = kind
        row.codec = codec
        row.reader = reader
        row.source_offset = source_offset
        row.source_length = source_length
        row.decoded_offset = decoded_offset
        row.decoded_length = decoded_length
        self.append(&row)

    def add_rows(self, const int64_t[:, ::1] rows not None, int64_t end):
        """Append the part of `rows`, a batch, that lies from ``self.end`` to `end` (bytes)."""
        cdef Py_ssize_t i
        cdef ExtentRow row
        check_shape(rows)
        for i in range(rows.shape[0]):
            row = (<const ExtentRow*> &rows[i, 0])[0]
            if row.offset >= end:
                break
            if row.offset + row.length <= self.end:
                continue
            cut(&row, max(row.offset, self.end), min(row.offset + row.length, end))
            self.append(&row)

    def take(self, int64_t known_end, bint last=False) -> list[memoryview]:
        """Return the batches that are complete when all rows before `known_end` (bytes) are there.

        With `last` the disk ends there, and everything is given out. Raises ValueError when rows lie behind a `last`
        end, or when a compressed row lies across the end of a batch.
        """
        cdef int64_t target = known_end if last else known_end - known_end % self.window_size
        cdef int64_t stop
        cdef Py_ssize_t index
        cdef list batches = []
        if last and self.end > target:
            raise ValueError(f"rows up to {self.end} on a disk of {target} bytes")
        if target > self.end:
            self.append_hole(target)
        while self.given < target:
            stop = target
            index = self.find(target)
            if index - self.first > self.rows_max:
                stop = self.rows[self.first + self.rows_max].offset
                stop -= stop % self.window_size
                if stop <= self.given:
                    raise ValueError(f"more than {self.rows_max} rows in the window at {self.given}")
            batches.append(self.batch(stop))
        if self.first:
            memmove(self.rows, self.rows + self.first, (self.count - self.first) * sizeof(ExtentRow))
            self.count -= self.first
            self.first = 0
        return batches

    cdef int append(self, const ExtentRow* row) except -1:
        if row.offset < self.end or row.length <= 0 or row.length > INT64_MAX - row.offset:
            raise ValueError(f"an extent at {row.offset} with length {row.length} does not lie behind {self.end}")
        if row.offset > self.end:
            self.append_hole(row.offset)
        return self.push(row)

    cdef int append_hole(self, int64_t stop) except -1:
        cdef ExtentRow hole
        memset(&hole, 0, sizeof(hole))
        hole.offset = self.end
        hole.length = stop - self.end
        hole.kind = HOLE_EXTENT
        return self.push(&hole)

    cdef int push(self, const ExtentRow* row) except -1:
        """Put a row that begins at `end` behind the others."""
        cdef ExtentRow* larger
        cdef ExtentRow* before
        if self.count > self.first:
            before = &self.rows[self.count - 1]
            if continues(before, row):
                before.length += row.length
                before.source_length += row.source_length
                self.end += row.length
                return 0
        if self.count == self.room:
            larger = <ExtentRow*> realloc(self.rows, (2 * self.room + 64) * sizeof(ExtentRow))
            if larger == NULL:
                raise MemoryError(f"no memory for {2 * self.room + 64} extents")
            self.rows = larger
            self.room = 2 * self.room + 64
        self.rows[self.count] = row[0]
        self.count += 1
        self.end = row.offset + row.length
        return 0

    cdef Py_ssize_t find(self, int64_t offset) noexcept:
        """Return the index of the first row held that begins at `offset` or behind it."""
        cdef Py_ssize_t low = self.first
        cdef Py_ssize_t high = self.count
        cdef Py_ssize_t middle
        while low < high:
            middle = (low + high) // 2
            if self.rows[middle].offset < offset:
                low = middle + 1
            else:
                high = middle
        return low

    cdef object batch(self, int64_t stop):
        """Give out the rows before `stop`; one across it is cut in two."""
        cdef Py_ssize_t behind = self.find(stop)
        cdef ExtentRow* last = &self.rows[behind - 1]
        cdef ExtentRow rest = last[0]
        cdef bint across = rest.offset + rest.length > stop
        if across:
            if rest.codec != RAW:
                raise ValueError(f"a compressed extent lies across {stop}")
            cut(&rest, stop, rest.offset + rest.length)
            cut(last, last.offset, stop)
        batch = as_batch(self.rows + self.first, behind - self.first)
        self.first = behind
        if across:
            self.first -= 1
            last[0] = rest
        self.given = stop
        return batch


cdef object as_batch(const ExtentRow* rows, Py_ssize_t count):
    """Return a copy of `count` rows, at least one, as a batch."""
    data = PyBytes_FromStringAndSize(<const char*> rows, count * sizeof(ExtentRow))
    return memoryview(data).cast("q", (count, COLUMN_COUNT))


cdef int check_shape(const int64_t[:, ::1] rows) except -1:
    if rows.shape[0] < 1 or rows.shape[1] != COLUMN_COUNT:
        raise ValueError(f"a batch has rows of {COLUMN_COUNT} columns, not a shape of "
                         f"{rows.shape[0]} x {rows.shape[1]}")
    return 0


cdef int64_t end_of(const int64_t[:, ::1] rows):
    return rows[rows.shape[0] - 1, 0] + rows[rows.shape[0] - 1, 1]


cdef Py_ssize_t holding(const int64_t[:, ::1] rows, int64_t offset):
    """Return the index of the row that holds `offset`, which must not lie before the first."""
    cdef Py_ssize_t low = 0
    cdef Py_ssize_t high = rows.shape[0]
    cdef Py_ssize_t middle
    while high - low > 1:
        middle = (low + high) // 2
        if rows[middle, 0] <= offset:
            low = middle
        else:
            high = middle
    return low


def first_hole(const int64_t[:, ::1] rows not None, int64_t start, int64_t end) -> int:
    """Return where the first HOLE of `rows`, a batch, in the range from `start` to `end` begins, or -1."""
    cdef Py_ssize_t i
    check_shape(rows)
    for i in range(holding(rows, start), rows.shape[0]):
        if rows[i, 0] >= end:
            break
        if rows[i, 2] == HOLE_EXTENT:
            return max(rows[i, 0], start)
    return -1


def lay_over(const int64_t[:, ::1] upper not None, const int64_t[:, ::1] lower not None, int64_t start,
             int64_t end) -> memoryview:
    """Return `upper` from `start` to `end` (bytes) with its holes filled by what `lower` has there.

    Both are batches without gaps; `upper` covers the range, `lower` every hole in it. Raises ValueError when not.
    """
    cdef BatchBuilder made = BatchBuilder(1, 1)
    cdef ExtentRow row
    cdef ExtentRow below
    cdef int64_t stop
    cdef Py_ssize_t i
    cdef Py_ssize_t j
    check_shape(upper)
    check_shape(lower)
    if start < upper[0, 0] or end > end_of(upper) or start >= end:
        raise ValueError(f"rows do not cover the range from {start} to {end}")
    made.end = start
    j = holding(lower, start)
    for i in range(holding(upper, start), upper.shape[0]):
        row = (<const ExtentRow*> &upper[i, 0])[0]
        if row.offset >= end:
            break
        cut(&row, max(row.offset, start), min(row.offset + row.length, end))
        if row.kind != HOLE_EXTENT:
            made.append(&row)
            continue
        stop = row.offset + row.length
        if lower[0, 0] > row.offset or end_of(lower) < stop:
            raise ValueError(f"the rows below do not cover the hole at {row.offset}")
        while made.end < stop:
            below = (<const ExtentRow*> &lower[j, 0])[0]
            if below.offset + below.length <= made.end:
                j += 1
                continue
            cut(&below, made.end, min(below.offset + below.length, stop))
            made.push(&below)
    return as_batch(made.rows, made.count)


def moved(const int64_t[:, ::1] rows not None, int64_t readers, int64_t end) -> memoryview:
    """Return the part of a batch before `end` (bytes), which is behind its start; `readers` is added to the readers
    of DATA rows."""
    cdef Py_ssize_t i
    cdef ExtentRow* row
    cdef Py_ssize_t count
    check_shape(rows)
    if end <= rows[0, 0]:
        raise ValueError(f"a batch from {rows[0, 0]} has nothing before {end}")
    count = holding(rows, end - 1) + 1
    copy = PyBytes_FromStringAndSize(<const char*> &rows[0, 0], count * sizeof(ExtentRow))
    row = <ExtentRow*> PyBytes_AS_STRING(copy)  # nobody else has seen it yet
    for i in range(count):
        if row[i].kind == DATA_EXTENT:
            row[i].reader += readers
    cut(&row[count - 1], row[count - 1].offset, min(row[count - 1].offset + row[count - 1].length, end))
    return memoryview(copy).cast("q", (count, COLUMN_COUNT))
