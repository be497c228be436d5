"""What other kernels use of pieces."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from dataplane._native.window cimport Window

cdef enum:
    PIECE_BLOCK = 4096      # zeros are told by aligned blocks of this size
    PIECE_GAP_BLOCKS = 4    # so many zero blocks in a row are a gap
    PIECE_GRID = 16384      # where nothing else cuts, multiples of this do
    PIECE_GAP = 255         # `bits` of a gap
    PIECE_WINDOW_MIN = 65536

cdef struct Piece:
    uint64_t digest
    uint32_t length
    uint32_t bits  # of 0 in the hash at its end; 0 where the grid or a gap cut; PIECE_GAP for a gap itself

cdef struct PieceRow:  # one window: zeros, bytes up to the first sure end of a piece, pieces, bytes that begin one, zeros
    int64_t offset
    int64_t blocks
    int64_t head_zeros   # blocks
    int64_t tail_zeros   # blocks
    bint bounded         # a piece ends behind the head
    Py_ssize_t head_length
    Py_ssize_t tail_length
    Py_ssize_t count
    uint8_t* head
    uint8_t* tail        # GEAR_CONTEXT bytes, then `tail_length`
    Piece* pieces

cdef struct Cutting:  # bytes that are being cut into pieces
    const uint8_t* bytes
    bint bounded         # False until the first end of a piece is known
    Py_ssize_t head_end  # where that was
    Py_ssize_t start     # of the piece that is open
    Py_ssize_t edge      # no piece can end on the grid within PIECE_GRID behind here
    Piece* pieces
    Py_ssize_t count
    Py_ssize_t room
    uint32_t* places     # what the gear kernel found
    uint8_t* bits
    Py_ssize_t found_room

cdef bint cut_bytes(Cutting* cutting, Py_ssize_t start, Py_ssize_t stop, int64_t shift, bint closed) noexcept nogil
cdef void let_go(Cutting* cutting) noexcept nogil

cdef class PieceRows:
    cdef PieceRow* rows
    cdef readonly Py_ssize_t count
    cdef bint note(self, Py_ssize_t index, Window window) noexcept nogil
