"""The cutter: pieces of a disk, in order, become content-defined chunks of several average sizes at once.

A chunk of an average size of 2**k bytes has at least a quarter of that and at most eight times as much. It ends at the
first end of a piece that has k + 2 bits, or from the average size on k - 2 (FastCDC's normalised chunking, level 2;
ends with more bits are among those with fewer, so that one search serves all sizes); without any, at the last end of a
piece before it grows too long; in front of a gap as long as the smallest chunk, and at the end of the disk. Those gaps
are in no chunk; shorter ones are bytes as any. The digest of a chunk is that of the digests of its pieces, where a
gap's length stands for it.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove, memset

from gear_variants cimport GEAR_CONTEXT

from dataplane._native.pieces cimport PIECE_BLOCK, PIECE_GAP, PIECE_GAP_BLOCKS, PIECE_GRID, Cutting, Piece, \
    PieceRow, PieceRows, cut_bytes, let_go
from dataplane._native.scan cimport XXH3_SIZE, xxh3_128

from array import array

cdef enum:
    AVERAGE_BITS_MIN = 12  # ends with two bits less are all found
    AVERAGE_BITS_MAX = 22

cdef struct Average:
    int bits
    int64_t size_min
    int64_t size_max
    int64_t gap_min     # shorter gaps are in chunks
    int64_t start       # of the open chunk on the disk
    Py_ssize_t first    # its first piece
    uint64_t* digests   # of chunks that are not taken yet
    uint32_t* lengths
    int64_t* offsets
    Py_ssize_t count
    Py_ssize_t room


cdef class Cutter:
    """Cuts one disk into chunks of `averages` bytes, ascending powers of two from 4 KiB to 4 MiB.

    Rows of windows come in disk order; what is between them is zeros. Memory: what is not taken yet, and for a moment
    up to eight times the largest average / 1 KiB digests of pieces.
    """

    cdef readonly tuple averages
    cdef Average[AVERAGE_BITS_MAX - AVERAGE_BITS_MIN + 1] sizes
    cdef int count
    cdef uint64_t* pieces      # digests, from the first piece of the oldest open chunk on
    cdef Py_ssize_t piece_count
    cdef Py_ssize_t piece_room
    cdef int64_t position      # behind the last piece
    cdef int64_t deadline      # no chunk grows too long up to here
    cdef int64_t reached       # behind the last row
    cdef uint8_t* edge         # GEAR_CONTEXT bytes, then those of the piece that is open
    cdef Py_ssize_t edge_length
    cdef Py_ssize_t edge_room
    cdef int64_t zeros         # blocks behind them
    cdef Cutting cutting
    cdef bint ended

    def __cinit__(self, averages: tuple[int, ...]):
        cdef Average* one
        if not averages or list(averages) != sorted(set(averages)) \
                or any(size < 1 or size.bit_count() != 1
                       or not AVERAGE_BITS_MIN <= size.bit_length() - 1 <= AVERAGE_BITS_MAX for size in averages):
            raise ValueError(f"averages are ascending powers of two from 4 KiB to 4 MiB, not {averages}")
        self.averages = tuple(averages)
        self.count = <int> len(averages)
        for number in range(self.count):
            one = &self.sizes[number]
            one.bits = averages[number].bit_length() - 1
            one.size_min = <int64_t> 1 << (one.bits - 2)
            one.size_max = <int64_t> 1 << (one.bits + 3)
            one.gap_min = max(one.size_min, <int64_t> (PIECE_GAP_BLOCKS * PIECE_BLOCK))
        self.edge_room = GEAR_CONTEXT + 4 * PIECE_GRID
        self.edge = <uint8_t*> calloc(self.edge_room, 1)
        if self.edge == NULL:
            raise MemoryError("no memory for the edge of a window")

    def __dealloc__(self):
        cdef int number
        for number in range(self.count):
            free(self.sizes[number].digests)
            free(self.sizes[number].lengths)
            free(self.sizes[number].offsets)
        free(self.pieces)
        free(self.edge)
        let_go(&self.cutting)

    def add(self, PieceRows rows not None):
        """Cut what the rows hold that are written, in their order. Releases the GIL.

        Raises ValueError for rows that are not behind those before, or after ``finish``, and MemoryError.
        """
        cdef Py_ssize_t i
        cdef bint enough = True
        cdef int64_t reached = self.reached
        if self.ended:
            raise ValueError("the disk has ended")
        for i in range(rows.count):
            if rows.rows[i].blocks == 0:
                continue
            if rows.rows[i].offset < reached:
                raise ValueError(f"a window at {rows.rows[i].offset} is not behind {reached}")
            reached = rows.rows[i].offset + rows.rows[i].blocks * PIECE_BLOCK
        with nogil:
            for i in range(rows.count):
                if rows.rows[i].blocks and not self.add_row(&rows.rows[i]):
                    enough = False
                    break
            self.forget()
        if not enough:
            raise MemoryError("no memory for chunks")

    def finish(self):
        """End the disk: behind what was added are zeros. Raises MemoryError."""
        cdef int number
        cdef bint enough = True
        if self.ended:
            return
        self.ended = True
        with nogil:
            enough = self.settle()
            for number in range(self.count):
                enough = enough and self.end_chunk(&self.sizes[number], self.position)
        if not enough:
            raise MemoryError("no memory for chunks")

    def take(self, Py_ssize_t number) -> tuple[array, array, array]:
        """Return digests (64 bits), lengths (bytes) and offsets of the chunks of average `number` that ended since
        the last call. Raises IndexError."""
        cdef Average* one
        if not 0 <= number < self.count:
            raise IndexError(f"average {number} of {self.count}")
        one = &self.sizes[number]
        digests, lengths, offsets = array("Q"), array("I"), array("q")
        if one.count:
            digests.frombytes((<char*> one.digests)[: one.count * sizeof(uint64_t)])
            lengths.frombytes((<char*> one.lengths)[: one.count * sizeof(uint32_t)])
            offsets.frombytes((<char*> one.offsets)[: one.count * sizeof(int64_t)])
            one.count = 0
        return digests, lengths, offsets

    cdef bint add_row(self, PieceRow* row) noexcept nogil:
        cdef Py_ssize_t i
        self.zeros += (row.offset - self.reached) // PIECE_BLOCK + row.head_zeros
        self.reached = row.offset + row.blocks * PIECE_BLOCK
        if row.head_zeros == row.blocks:
            return True
        if not self.settle_zeros() or not self.append(row.head, row.head_length):
            return False
        if row.bounded:
            if not self.settle():
                return False
            for i in range(row.count):
                if not self.add_piece(&row.pieces[i]):
                    return False
            memcpy(self.edge, row.tail, GEAR_CONTEXT)
            if not self.append(row.tail + GEAR_CONTEXT, row.tail_length):
                return False
        self.zeros = row.tail_zeros
        return True

    cdef bint append(self, const uint8_t* bytes, Py_ssize_t length) noexcept nogil:
        """Append bytes, or zeros for NULL, to the edge."""
        cdef Py_ssize_t wanted = GEAR_CONTEXT + self.edge_length + length
        cdef uint8_t* larger
        if wanted > self.edge_room:
            larger = <uint8_t*> realloc(self.edge, 2 * wanted)
            if larger == NULL:
                return False
            self.edge = larger
            self.edge_room = 2 * wanted
        if bytes != NULL:
            memcpy(self.edge + GEAR_CONTEXT + self.edge_length, bytes, length)
        else:
            memset(self.edge + GEAR_CONTEXT + self.edge_length, 0, length)
        self.edge_length += length
        return True

    cdef bint settle_zeros(self) noexcept nogil:
        """Decide what the zero blocks behind the edge are, since their number is known now."""
        cdef int64_t blocks = self.zeros
        self.zeros = 0
        if blocks < PIECE_GAP_BLOCKS:
            return self.append(NULL, blocks * PIECE_BLOCK)
        if not self.settle():
            return False
        memset(self.edge, 0, GEAR_CONTEXT)
        return self.add_gap(blocks * PIECE_BLOCK)

    cdef bint settle(self) noexcept nogil:
        """Cut the edge: a piece ends behind it. Its last bytes go on deciding on what follows."""
        cdef Py_ssize_t i
        self.cutting.bytes = self.edge
        self.cutting.bounded = True
        self.cutting.start = GEAR_CONTEXT
        self.cutting.edge = GEAR_CONTEXT
        self.cutting.count = 0
        if self.edge_length and not cut_bytes(&self.cutting, GEAR_CONTEXT, GEAR_CONTEXT + self.edge_length,
                                              self.position % PIECE_GRID + PIECE_GRID - GEAR_CONTEXT, True):
            return False
        for i in range(self.cutting.count):
            if not self.add_piece(&self.cutting.pieces[i]):
                return False
        memmove(self.edge, self.edge + self.edge_length, GEAR_CONTEXT)
        self.edge_length = 0
        return True

    cdef bint add_piece(self, const Piece* piece) noexcept nogil:
        cdef int64_t end = self.position + piece.length
        cdef int64_t size
        cdef int number
        cdef Average* one
        if piece.bits == PIECE_GAP:
            return self.add_gap(piece.length)
        if end > self.deadline and not self.end_long(end):
            return False
        if not self.push(piece.digest):
            return False
        self.position = end
        for number in range(self.count):
            one = &self.sizes[number]
            if <int> piece.bits + 2 < one.bits:
                break
            size = end - one.start
            if size >= one.size_min and <int> piece.bits >= (one.bits + 2 if size < 4 * one.size_min else one.bits - 2):
                if not self.end_chunk(one, end):
                    return False
        return True

    cdef bint add_gap(self, int64_t length) noexcept nogil:
        cdef int64_t end = self.position + length
        cdef int number
        cdef Average* one
        for number in range(self.count):
            one = &self.sizes[number]
            # A gap that is in no chunk ends the one before it, one that is in chunks may make it too long.
            if length >= one.gap_min or end - one.start > one.size_max:
                if not self.end_chunk(one, self.position):
                    return False
        if not self.push(<uint64_t> length):
            return False
        self.position = end
        for number in range(self.count):
            one = &self.sizes[number]
            if length >= one.gap_min:
                one.start = end
                one.first = self.piece_count
        return True

    cdef bint end_long(self, int64_t end) noexcept nogil:
        """End the chunks that a piece up to `end` would make too long, in front of it."""
        cdef int number
        cdef Average* one
        self.deadline = end
        for number in range(self.count):
            one = &self.sizes[number]
            if end - one.start > one.size_max and not self.end_chunk(one, self.position):
                return False
            if number == 0 or one.start + one.size_max < self.deadline:
                self.deadline = one.start + one.size_max
        return True

    cdef bint end_chunk(self, Average* one, int64_t end) noexcept nogil:
        """Write down the open chunk, unless it is empty; the next one starts at `end`."""
        cdef uint8_t[XXH3_SIZE] digest
        if one.start < end:
            if one.count == one.room and not self.grow(one):
                return False
            xxh3_128(<const uint8_t*> (self.pieces + one.first), (self.piece_count - one.first) * sizeof(uint64_t),
                     digest)
            memcpy(&one.digests[one.count], digest, sizeof(uint64_t))
            one.lengths[one.count] = <uint32_t> (end - one.start)
            one.offsets[one.count] = one.start
            one.count += 1
        one.start = end
        one.first = self.piece_count
        return True

    cdef bint grow(self, Average* one) noexcept nogil:
        cdef Py_ssize_t room = one.room + one.room // 2 + 64
        cdef void* larger = realloc(one.digests, room * sizeof(uint64_t))
        if larger == NULL:
            return False
        one.digests = <uint64_t*> larger
        larger = realloc(one.lengths, room * sizeof(uint32_t))
        if larger == NULL:
            return False
        one.lengths = <uint32_t*> larger
        larger = realloc(one.offsets, room * sizeof(int64_t))
        if larger == NULL:
            return False
        one.offsets = <int64_t*> larger
        one.room = room
        return True

    cdef bint push(self, uint64_t digest) noexcept nogil:
        cdef Py_ssize_t room = self.piece_room + self.piece_room // 2 + 1024
        cdef void* larger
        if self.piece_count == self.piece_room:
            larger = realloc(self.pieces, room * sizeof(uint64_t))
            if larger == NULL:
                return False
            self.pieces = <uint64_t*> larger
            self.piece_room = room
        self.pieces[self.piece_count] = digest
        self.piece_count += 1
        return True

    cdef void forget(self) noexcept nogil:
        """Let go of the digests that no open chunk needs."""
        cdef int number
        cdef Py_ssize_t first = self.piece_count
        for number in range(self.count):
            first = min(first, self.sizes[number].first)
        if first:
            memmove(self.pieces, self.pieces + first, (self.piece_count - first) * sizeof(uint64_t))
            self.piece_count -= first
            for number in range(self.count):
                self.sizes[number].first -= first
