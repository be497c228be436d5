"""Merging runs, or count files: their entries as one sorted stream, in pieces, so that memory does not grow."""

from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from run_entry cimport ENTRY_SIZE, dp_add_counts, dp_counts_nothing, dp_order, dp_run_entry

from dataplane._native.runs cimport Run

from dataplane._native.runs import RunCorrupt

cdef struct Cursor:
    const dp_run_entry* first
    const dp_run_entry* entry  # the next living one
    const dp_run_entry* end
    const uint32_t* numbers    # what packs are called in the merged run, or UINT32_MAX; NULL when counts are summed
    uint32_t pack_count
    uint32_t run


cdef class RunMerge:
    """Merges runs. Not safe for concurrent use.

    `numbers` has an array of 32-bit numbers for each run: what each of its packs is called in the merged run, or
    2**32 - 1 where its entries are left out. Of entries with one id that of the first run is kept, unless its pack's
    number is `spare_from` or more and another's is not. Without `numbers` the runs are count files: the counts of one
    id are summed, and left out when they come to nothing. All entries are checked at once. Raises ValueError when the
    numbers do not fit the runs, RunCorrupt when a block is damaged.
    """

    cdef list runs
    cdef list numbers
    cdef Cursor* heap
    cdef int64_t heap_size
    cdef uint32_t spare_from
    cdef bint sums

    def __cinit__(self, runs: list[Run], numbers: list | None = None, uint32_t spare_from=UINT32_MAX):
        cdef const uint32_t[::1] view
        cdef Run run
        cdef Cursor* cursor
        cdef int64_t bad = -1
        cdef Py_ssize_t i
        self.runs = list(runs)
        self.sums = numbers is None
        self.numbers = [] if self.sums else list(numbers)
        self.spare_from = spare_from
        if not self.sums and len(self.runs) != len(self.numbers):
            raise ValueError(f"{len(self.numbers)} lists of numbers do not fit {len(self.runs)} runs")
        self.heap = <Cursor*> calloc(len(self.runs) + 1, sizeof(Cursor))
        if self.heap == NULL:
            raise MemoryError("no memory to merge runs")
        for i in range(<Py_ssize_t> len(self.runs)):
            run = <Run?> self.runs[i]
            view = None if self.sums else self.numbers[i]
            if not self.sums and view.shape[0] != run.pack_count:
                raise ValueError(f"{view.shape[0]} numbers do not fit the {run.pack_count} packs of run {i}")
            if run.entry_count == 0:
                continue
            with nogil:
                run.touch(run.entries, run.entry_count * ENTRY_SIZE, &bad)
            if bad >= 0:
                raise RunCorrupt(i, bad)
            cursor = self.heap + self.heap_size
            cursor.first = run.entries
            cursor.entry = run.entries - 1
            cursor.end = run.entries + run.entry_count
            if not self.sums and run.pack_count:
                cursor.numbers = &view[0]
            cursor.pack_count = run.pack_count
            cursor.run = i
            if self.advance(cursor, &bad):
                self.heap_size += 1
                self.rise(self.heap_size - 1)
            elif bad >= 0:
                raise self.disorder(i, bad)

    cdef object disorder(self, uint32_t number, int64_t index):
        cdef Run run = <Run> self.runs[number]
        return RunCorrupt(number, (<const uint8_t*> (run.entries + index)) - &run.data[0])

    def __dealloc__(self):
        free(self.heap)

    def count(self) -> int:
        """Pass over what is left; return how many entries that is. Releases the GIL. Raises RunCorrupt."""
        return self.pull(NULL, <uint64_t> -1)

    def take(self, uint64_t count_max) -> bytes:
        """Return the next entries, 48 bytes each, at most `count_max`; none when all were taken. Releases the GIL.

        Raises RunCorrupt when entries of a run are out of order.
        """
        cdef uint64_t left = 0
        cdef int64_t i
        for i in range(self.heap_size):
            left += self.heap[i].end - self.heap[i].entry
        cdef bytearray made = bytearray(min(count_max, left) * ENTRY_SIZE)
        cdef uint64_t count = self.pull(<dp_run_entry*> <char*> made, min(count_max, left))
        return bytes(memoryview(made)[: count * ENTRY_SIZE])

    cdef uint64_t pull(self, dp_run_entry* target, uint64_t count_max) except? <uint64_t> -2:
        """Merge up to `count_max` entries into `target`, or nowhere when it is NULL; return how many."""
        cdef uint64_t made = 0
        cdef int64_t bad = -1
        cdef uint32_t run = 0
        cdef dp_run_entry best
        cdef uint32_t number
        with nogil:
            while made < count_max and self.heap_size and bad < 0:
                best = self.heap[0].entry[0]
                if not self.sums:
                    best.pack = self.heap[0].numbers[best.pack]
                run = self.pop(&bad)
                while bad < 0 and self.heap_size and memcmp(self.heap[0].entry.id, best.id, 32) == 0:
                    if self.sums:
                        dp_add_counts(&best, self.heap[0].entry)
                    else:
                        number = self.heap[0].numbers[self.heap[0].entry.pack]
                        if best.pack >= self.spare_from and number < self.spare_from:
                            best = self.heap[0].entry[0]
                            best.pack = number
                    run = self.pop(&bad)
                if self.sums and dp_counts_nothing(&best):
                    continue
                if target != NULL:
                    target[made] = best
                made += 1
        if bad >= 0:
            raise self.disorder(run, bad)
        return made

    cdef uint32_t pop(self, int64_t* bad) noexcept nogil:
        """Step the first cursor on, or drop it at its end, and bring the heap in order; return its run."""
        cdef uint32_t run = self.heap[0].run
        if not self.advance(self.heap, bad):
            self.heap_size -= 1
            self.heap[0] = self.heap[self.heap_size]
        self.sink()
        return run

    cdef bint advance(self, Cursor* cursor, int64_t* bad) noexcept nogil:
        """Step to the next living entry; False at the end, or with `bad` set to the index of one that is out of order.
        """
        while True:
            cursor.entry += 1
            if cursor.entry >= cursor.end:
                return False
            if cursor.entry > cursor.first and dp_order((cursor.entry - 1).id, cursor.entry.id) >= 0:
                bad[0] = cursor.entry - cursor.first
                return False
            if self.sums or (cursor.entry.pack < cursor.pack_count and cursor.numbers[cursor.entry.pack] != UINT32_MAX):
                return True

    cdef bint before(self, int64_t a, int64_t b) noexcept nogil:
        """Order of two cursors: by id, and of equal ids the earlier run first."""
        cdef int order = dp_order(self.heap[a].entry.id, self.heap[b].entry.id)
        return order < 0 or (order == 0 and self.heap[a].run < self.heap[b].run)

    cdef void swap(self, int64_t a, int64_t b) noexcept nogil:
        cdef Cursor kept = self.heap[a]
        self.heap[a] = self.heap[b]
        self.heap[b] = kept

    cdef void rise(self, int64_t at) noexcept nogil:
        while at > 0 and self.before(at, (at - 1) // 2):
            self.swap(at, (at - 1) // 2)
            at = (at - 1) // 2

    cdef void sink(self) noexcept nogil:
        cdef int64_t at = 0
        cdef int64_t child = 1
        while child < self.heap_size:
            if child + 1 < self.heap_size and self.before(child + 1, child):
                child += 1
            if not self.before(child, at):
                return
            self.swap(child, at)
            at = child
            child = 2 * at + 1
