"""Pieces: windows cut where their content says, and digested, before it is known where chunks end.

A disk is a row of pieces. A piece ends

* where the gear kernel finds a place, which has 10 to 24 bits;
* where a gap begins or ends: four or more blocks of 4 KiB, at multiples of 4 KiB, that are all zero;
* at a multiple of 16 KiB when no piece ended within the 16 KiB before it.

Bytes in front of the disk and in holes are zeros, and the last block is filled up with them. All ends follow from few
bytes before them, so that windows can be cut apart from each other. What is not sure at their edges is left to
``dataplane._native.cutter``: a window's first bytes up to an end for which it holds all the evidence, its last bytes
behind the last end, and the zero blocks at its edges, which may be part of a gap.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from gear_variants cimport GEAR_CONTEXT, GEAR_QUIET

from dataplane._native.gear cimport gear_find
from dataplane._native.scan cimport ABSENT, DATA, XXH3_SIZE, xxh3_128
from dataplane._native.window cimport Window


cdef void let_go(Cutting* cutting) noexcept nogil:
    free(cutting.pieces)
    free(cutting.places)
    free(cutting.bits)
    memset(cutting, 0, sizeof(Cutting))


cdef bint add_piece(Cutting* cutting, uint64_t digest, Py_ssize_t length, uint32_t bits) noexcept nogil:
    cdef Piece* larger
    if cutting.count == cutting.room:
        larger = <Piece*> realloc(cutting.pieces, (cutting.room + cutting.room // 2 + 512) * sizeof(Piece))
        if larger == NULL:
            return False
        cutting.pieces = larger
        cutting.room += cutting.room // 2 + 512
    cutting.pieces[cutting.count].digest = digest
    cutting.pieces[cutting.count].length = <uint32_t> length
    cutting.pieces[cutting.count].bits = bits
    cutting.count += 1
    return True


cdef bint end_piece(Cutting* cutting, Py_ssize_t at, uint32_t bits) noexcept nogil:
    """End the open piece in front of byte `at`; the first end closes the head, which is no piece."""
    cdef uint8_t[XXH3_SIZE] digest
    cdef uint64_t short_digest
    cdef bint enough = True
    if not cutting.bounded:
        cutting.bounded = True
        cutting.head_end = at
    elif at > cutting.start:
        xxh3_128(cutting.bytes + cutting.start, at - cutting.start, digest)
        memcpy(&short_digest, digest, sizeof(short_digest))
        enough = add_piece(cutting, short_digest, at - cutting.start, bits)
    cutting.start = at
    cutting.edge = at
    return enough


cdef bint cut_bytes(Cutting* cutting, Py_ssize_t start, Py_ssize_t stop, int64_t shift, bint closed) noexcept nogil:
    """Cut the bytes from `start` to `stop`, which hold no gap; GEAR_CONTEXT bytes before `start` decide on them too.

    `shift` plus a place is its offset on the disk (modulo PIECE_GRID). With `closed` a piece ends at `stop`. Return
    False when memory is short.
    """
    cdef Py_ssize_t wanted = (stop - start) // (GEAR_QUIET + 1) + 2
    cdef size_t count
    cdef size_t i
    cdef Py_ssize_t at
    cdef Py_ssize_t grid
    if wanted > cutting.found_room:
        free(cutting.places)
        free(cutting.bits)
        cutting.found_room = wanted
        cutting.places = <uint32_t*> malloc(wanted * sizeof(uint32_t))
        cutting.bits = <uint8_t*> malloc(wanted)
        if cutting.places == NULL or cutting.bits == NULL:
            cutting.found_room = 0
            return False
    count = gear_find(cutting.bytes + start, stop - start, cutting.places, cutting.bits)
    for i in range(count + 1):
        at = start + cutting.places[i] if i < count else stop
        grid = (cutting.edge + PIECE_GRID + shift + PIECE_GRID - 1) // PIECE_GRID * PIECE_GRID - shift
        while grid < at:
            if not end_piece(cutting, grid, 0):
                return False
            grid += PIECE_GRID
        if i < count:
            if not end_piece(cutting, at, cutting.bits[i]):
                return False
        elif closed and at > cutting.start:
            if not end_piece(cutting, at, 0):
                return False
    return True


cdef inline bint is_zero_block(Window window, Py_ssize_t block) noexcept nogil:
    return window._states[block] != DATA


cdef Py_ssize_t zeros_from(Window window, Py_ssize_t block, Py_ssize_t end) noexcept nogil:
    """Return how many zero blocks follow from `block` on."""
    cdef Py_ssize_t at = block
    while at < end and is_zero_block(window, at):
        at += 1
    return at - block


cdef bint keep(uint8_t** target, const uint8_t* bytes, Py_ssize_t length) noexcept nogil:
    target[0] = <uint8_t*> malloc(length + 1)
    if target[0] == NULL:
        return False
    if length:  # without any there may be no bytes to point to
        memcpy(target[0], bytes, length)
    return True


cdef bint cut_window(PieceRow* row, Window window, Cutting* cutting) noexcept nogil:
    """Write what a loaded window holds; return False when memory is short."""
    cdef uint8_t* bytes = &window._plain[0]
    cdef Py_ssize_t last = window.chunk_count
    cdef Py_ssize_t block
    cdef Py_ssize_t stop
    cdef Py_ssize_t gap = 0
    cdef Py_ssize_t first
    row.offset = window.offset
    row.blocks = window.chunk_count
    row.head_zeros = first = zeros_from(window, 0, last)
    if first == last:
        return True
    while is_zero_block(window, last - 1):
        last -= 1
    row.tail_zeros = window.chunk_count - last
    cutting.bytes = bytes
    cutting.start = first * PIECE_BLOCK
    cutting.bounded = first >= PIECE_GAP_BLOCKS
    cutting.head_end = cutting.start
    # The first bytes of the window hide what is before them, so the grid is sure one step later only.
    cutting.edge = cutting.start if cutting.bounded else PIECE_GRID
    block = first
    while block < last:
        stop = block
        while stop < last:
            gap = zeros_from(window, stop, last)
            if gap >= PIECE_GAP_BLOCKS:
                break
            while gap:  # too few to be a gap: they are bytes as any
                if window._states[stop] == ABSENT:
                    memset(bytes + stop * PIECE_BLOCK, 0, PIECE_BLOCK)
                stop += 1
                gap -= 1
            if stop < last and not is_zero_block(window, stop):
                stop += 1
        if block:
            memset(bytes + block * PIECE_BLOCK - GEAR_CONTEXT, 0, GEAR_CONTEXT)
        if not cut_bytes(cutting, block * PIECE_BLOCK if block else GEAR_CONTEXT, stop * PIECE_BLOCK, 0,
                         stop < last or row.tail_zeros >= PIECE_GAP_BLOCKS):
            return False
        if stop < last:
            if not add_piece(cutting, 0, gap * PIECE_BLOCK, PIECE_GAP):
                return False
            cutting.start = cutting.edge = (stop + gap) * PIECE_BLOCK
        block = stop + gap
        gap = 0
    return keep_edges(row, cutting, first * PIECE_BLOCK, last * PIECE_BLOCK)


cdef bint keep_edges(PieceRow* row, Cutting* cutting, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """Move what was found into the row."""
    row.bounded = cutting.bounded
    row.head_length = (cutting.head_end if cutting.bounded else stop) - start
    if not keep(&row.head, cutting.bytes + start, row.head_length):
        return False
    if cutting.bounded:
        row.tail_length = stop - cutting.start
        if not keep(&row.tail, cutting.bytes + cutting.start - GEAR_CONTEXT, GEAR_CONTEXT + row.tail_length):
            return False
    row.count = cutting.count
    return keep(<uint8_t**> &row.pieces, <const uint8_t*> cutting.pieces, cutting.count * sizeof(Piece))


cdef class PieceRows:
    """Room for the pieces of `count` windows of at least 64 KiB, whose chunks are blocks of 4 KiB.

    Memory: some 64 KiB for each window of 4 MiB, at most 1.2 MiB.
    """

    def __cinit__(self, Py_ssize_t count):
        if count < 0:
            raise ValueError(f"{count} windows")
        self.rows = <PieceRow*> calloc(max(count, 1), sizeof(PieceRow))
        if self.rows == NULL:
            raise MemoryError(f"no memory for {count} windows")
        self.count = count

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.rows != NULL:
            for i in range(self.count):
                free(self.rows[i].head)
                free(self.rows[i].tail)
                free(self.rows[i].pieces)
            free(self.rows)

    cdef bint note(self, Py_ssize_t index, Window window) noexcept nogil:
        """Write what a loaded window holds to row `index`, once; return False when memory is short."""
        cdef Cutting cutting
        cdef bint enough
        memset(&cutting, 0, sizeof(cutting))
        enough = cut_window(&self.rows[index], window, &cutting)
        let_go(&cutting)
        return enough

    def note_window(self, Py_ssize_t index, Window window not None):
        """Write what a loaded window holds to row `index`. Releases the GIL.

        Raises IndexError, MemoryError, and ValueError for a row that is written and for windows of another shape.
        """
        cdef bint enough
        check_window(window)
        if not 0 <= index < self.count:
            raise IndexError(f"row {index} of {self.count}")
        if self.rows[index].blocks:
            raise ValueError(f"row {index} is written already")
        with nogil:
            enough = self.note(index, window)
        if not enough:
            raise MemoryError(f"no memory for the pieces of a window of {window.size} bytes")


def check_window(Window window not None):
    """Raise ValueError unless pieces can be cut from such windows."""
    if window.chunk_size != PIECE_BLOCK or window.size < PIECE_WINDOW_MIN:
        raise ValueError(f"pieces are cut from windows of {PIECE_WINDOW_MIN} bytes or more with blocks of "
                         f"{PIECE_BLOCK}, not {window.size} with {window.chunk_size}")
    if window.scanning:
        raise ValueError("pieces are cut from windows that keep what they read, not from one that only scans")
