# cython: boundscheck=True
"""Which ranges of an image's file hold data, as the file system knows: what lies between them reads as zeros."""

from libc.stdint cimport INT64_MAX, int64_t
from libc.stdlib cimport free, realloc


cdef class Allocation:
    """Ranges of a file of `size` bytes that hold data, in order. Holes shorter than `hole_size_min` bytes are data.

    A file without any range added is one hole. `data_bytes` is how many bytes the ranges have, `count` how many
    ranges there are.
    """

    def __cinit__(self, int64_t size, int64_t hole_size_min):
        if size < 0 or hole_size_min < 1:
            raise ValueError(f"no map of a file of {size} bytes with holes of {hole_size_min} bytes or more")
        self.size = size
        self.hole_size_min = hole_size_min

    def __dealloc__(self):
        free(self.ranges)

    def add(self, const int64_t[:, ::1] ranges not None):
        """Append rows (offset, length), which lie behind each other and behind those that are there. Raises ValueError
        when they do not, or not in the file."""
        cdef Py_ssize_t i
        cdef int64_t start
        cdef int64_t stop
        cdef Range* last
        if ranges.shape[1] != 2:
            raise ValueError("a range is an offset and a length")
        for i in range(ranges.shape[0]):
            start = ranges[i, 0]
            if start < 0 or ranges[i, 1] <= 0 or ranges[i, 1] > self.size - start:
                raise ValueError(f"a range at {start} of {ranges[i, 1]} bytes is not in a file of {self.size} bytes")
            stop = start + ranges[i, 1]
            last = &self.ranges[self.count - 1] if self.count else NULL
            if last != NULL and start < last.stop:
                raise ValueError(f"the range at {start} does not lie behind {last.stop}")
            if last != NULL and start - last.stop < self.hole_size_min:
                self.data_bytes += stop - last.stop
                last.stop = stop
                continue
            self.append(start, stop)
            self.data_bytes += stop - start

    cdef int append(self, int64_t start, int64_t stop) except -1:
        cdef Range* larger
        if self.count == self.room:
            larger = <Range*> realloc(self.ranges, (2 * self.room + 64) * sizeof(Range))
            if larger == NULL:
                raise MemoryError(f"no memory for {2 * self.room + 64} ranges")
            self.ranges = larger
            self.room = 2 * self.room + 64
        self.ranges[self.count].start = start
        self.ranges[self.count].stop = stop
        self.count += 1
        return 0

    cdef bint holds(self, int64_t offset, int64_t* stop) noexcept:
        """Tell whether the byte at `offset` is data; `stop` becomes where that ends to be so, INT64_MAX for never."""
        cdef Py_ssize_t low
        cdef Py_ssize_t high
        cdef Py_ssize_t middle
        if not (self.near < self.count and self.ranges[self.near].start <= offset < self.ranges[self.near].stop):
            low = 0
            high = self.count
            while low < high:  # the first range that ends behind the offset
                middle = (low + high) // 2
                if self.ranges[middle].stop <= offset:
                    low = middle + 1
                else:
                    high = middle
            self.near = low
        if self.near == self.count:
            stop[0] = INT64_MAX
            return False
        if offset < self.ranges[self.near].start:
            stop[0] = self.ranges[self.near].start
            return False
        stop[0] = self.ranges[self.near].stop
        return True

    cdef int64_t data_in(self, int64_t offset, int64_t length) noexcept:
        """Return how many of `length` bytes at `offset` are data."""
        cdef int64_t end = offset + length
        cdef int64_t found = 0
        cdef int64_t stop
        while offset < end:
            if self.holds(offset, &stop):
                found += min(stop, end) - offset
            offset = min(stop, end)
        return found

    def stored(self, const int64_t[::1] offsets not None, int64_t length) -> int:
        """Return how many bytes of the ranges of `length` bytes at `offsets` hold data, counting what two of them share
        twice. Raises ValueError for ranges that are none."""
        cdef Py_ssize_t i
        cdef int64_t found = 0
        if length < 0:
            raise ValueError(f"no ranges of {length} bytes")
        for i in range(offsets.shape[0]):
            if not 0 <= offsets[i] <= INT64_MAX - length:
                raise ValueError(f"no range of {length} bytes at {offsets[i]}")
            found += self.data_in(offsets[i], length)
        return found
