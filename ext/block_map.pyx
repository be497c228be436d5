# cython: boundscheck=True
"""Block tables of VDI, VHDX and VHD, checked entry by entry and turned into rows of extents, or places of bitmaps."""

from array import array

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from table_bytes cimport big32, little32, little64

from dataplane._native.allocation cimport Allocation
from dataplane._native.batches cimport BatchBuilder, append_data, append_zero

from dataplane._native.batches import MapFault

cdef enum:
    SECTOR_SIZE = 512
    MIB_BITS = 20

cdef uint32_t ABSENT = 0xFFFF_FFFF  # VDI, VHD
cdef uint32_t VDI_ZERO = 0xFFFF_FFFE

cdef enum VhdxState:  # of a block; 5 is what drafts of the format used for 3
    NOT_PRESENT = 0
    UNDEFINED = 1
    ZERO = 2
    UNMAPPED = 3
    UNMAPPED_DRAFT = 5
    PRESENT = 6

cdef uint64_t VHDX_RESERVED = 0xFFFF8


cdef object fault(int64_t guest, str problem):
    return MapFault(f"the block for offset {guest} {problem}")


cdef int check(int64_t first, int64_t block_size, int64_t disk_size, int64_t file_size) except -1:
    """Raise ValueError for sizes with which a sum of two offsets could leave 63 bits."""
    if not 0 <= first <= <int64_t> 1 << 40 or not SECTOR_SIZE <= block_size <= <int64_t> 1 << 31 \
            or not 0 <= disk_size <= <int64_t> 1 << 51 or file_size < 0:
        raise ValueError(f"no table of blocks of {block_size} bytes for a disk of {disk_size} bytes")
    return 0


def add_vdi_blocks(BatchBuilder rows not None, const uint8_t[::1] entries not None, int64_t first, *,
                   int64_t block_size, int64_t disk_size, int64_t data_offset, int64_t file_size) -> int:
    """Add rows for a slice of the block map of a VDI whose first entry is number `first`; return how many
    bytes of data the file has for them.

    Blocks lie behind `data_offset` of a file of `file_size` bytes. Raises MapFault.
    """
    cdef int64_t named = 0
    cdef int64_t guest
    cdef int64_t place
    cdef int64_t length
    cdef uint32_t entry
    cdef Py_ssize_t i
    check(first, block_size, disk_size, file_size)
    for i in range(entries.shape[0] // 4):
        entry = little32(entries, i)
        guest = (first + i) * block_size
        if entry == ABSENT or guest >= disk_size:
            continue
        length = min(block_size, disk_size - guest)
        if entry == VDI_ZERO:
            append_zero(rows, guest, length)
            continue
        place = data_offset + <int64_t> entry * block_size
        if place > file_size - length:
            raise fault(guest, "is not in the file, which is cut short or damaged")
        named += append_data(rows, guest, length, 0, place)
    return named


def add_vhdx_blocks(BatchBuilder rows not None, const uint8_t[::1] entries not None, int64_t first, *,
                    int64_t block_size, int64_t chunk_blocks, int64_t disk_size, int64_t file_size) -> int:
    """Add rows for a slice of the block allocation table of a VHDX that begins with the entry of block `first`;
    return how many bytes of data the file has for them.

    Behind every `chunk_blocks` blocks lies an entry for a sector bitmap, which is skipped. Raises MapFault.
    """
    cdef int64_t named = 0
    cdef int64_t block = first
    cdef int64_t guest
    cdef int64_t length
    cdef int64_t before
    cdef uint64_t entry
    cdef uint64_t state
    cdef Py_ssize_t i
    check(first, block_size, disk_size, file_size)
    if chunk_blocks < 1:
        raise ValueError("a sector bitmap stands for at least one block")
    before = first // chunk_blocks  # entries for bitmaps
    for i in range(entries.shape[0] // 8):
        if (first + before + i + 1) % (chunk_blocks + 1) == 0:
            continue
        guest = block * block_size
        block += 1
        if guest >= disk_size:
            break
        entry = little64(entries, i)
        state = entry & 7
        if state not in (NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, UNMAPPED_DRAFT, PRESENT):
            raise fault(guest, "has a state that a disk without parent cannot have")
        if entry & VHDX_RESERVED:
            raise fault(guest, "has reserved bits set in its entry of the table")
        length = min(block_size, disk_size - guest)
        if state == ZERO:
            append_zero(rows, guest, length)
        elif state == PRESENT:
            # Compared in MiB first: in bytes an entry may say more than 63 bits hold.
            if entry >> MIB_BITS > <uint64_t> (file_size >> MIB_BITS) \
                    or <int64_t> (entry >> MIB_BITS << MIB_BITS) > file_size - length:
                raise fault(guest, "is not in the file, which is cut short or damaged")
            if entry >> MIB_BITS == 0:
                raise fault(guest, "lies in the header section")
            named += append_data(rows, guest, length, 0, <int64_t> (entry >> MIB_BITS << MIB_BITS))
    return named


def vhd_blocks(const uint8_t[::1] entries not None, int64_t first, *, int64_t block_size, int64_t bitmap_size,
               int64_t disk_size, int64_t file_size, Allocation allocation=None) -> memoryview:
    """Return (offset on the disk, offset in the file) of the blocks that a slice of the block table of a VHD names, as
    flat int64 pairs.

    `first` is the number of the slice's first entry; a block begins with `bitmap_size` bytes of bitmap. Blocks whose
    bitmap lies in a hole of the file have no sector set and are left out. Raises MapFault.
    """
    cdef object found = array("q")
    cdef int64_t guest
    cdef int64_t place
    cdef uint32_t entry
    cdef Py_ssize_t i
    check(first, block_size, disk_size, file_size)
    for i in range(entries.shape[0] // 4):
        entry = big32(entries, i)
        guest = (first + i) * block_size
        if entry == ABSENT or guest >= disk_size:
            continue
        place = <int64_t> entry * SECTOR_SIZE
        if place > file_size - bitmap_size - min(block_size, disk_size - guest):
            raise fault(guest, "is not in the file, which is cut short or damaged")
        if allocation is not None and not allocation.data_in(place, bitmap_size):
            continue
        found.append(guest)
        found.append(place)
    return memoryview(found)


def add_vhd_sectors(BatchBuilder rows not None, const uint8_t[::1] bits not None, const int64_t[::1] guests not None,
                    const int64_t[::1] places not None, *, int64_t sectors, int64_t disk_size) -> int:
    """Add rows for pieces of blocks of `sectors` sectors, as their bits say: set for data, clear for zeros; return how
    many bytes of data the file has for them.

    Piece by piece `guests` has offsets on the disk, ascending, `places` those of the data in the file, and `bits`
    whole bytes; the most significant bit of a byte stands for its first sector. Raises ValueError when the arguments
    do not fit each other.
    """
    cdef Py_ssize_t row_size = (sectors + 7) // 8
    cdef int64_t named = 0
    cdef Py_ssize_t piece
    cdef int64_t start
    cdef int64_t stop
    cdef int64_t inside
    cdef bint stored
    if sectors < 1 or guests.shape[0] != places.shape[0] or bits.shape[0] != row_size * guests.shape[0]:
        raise ValueError(f"{bits.shape[0]} bytes are not the bits of {guests.shape[0]} pieces of {sectors} sectors")
    for piece in range(guests.shape[0]):
        inside = min(sectors, (disk_size - guests[piece] + SECTOR_SIZE - 1) // SECTOR_SIZE)
        start = 0
        while start < inside:
            stored = bit(bits, piece * row_size, start)
            stop = start + 1
            while stop < inside and bit(bits, piece * row_size, stop) == stored:
                stop += 1
            named += add_sectors(
                rows, stored, guests[piece] + start * SECTOR_SIZE,
                min((stop - start) * SECTOR_SIZE, disk_size - guests[piece] - start * SECTOR_SIZE),
                places[piece] + start * SECTOR_SIZE)
            start = stop
    return named


cdef inline bint bit(const uint8_t[::1] bits, Py_ssize_t start, int64_t sector) except -1:
    return bits[start + sector // 8] >> (7 - sector % 8) & 1


cdef int64_t add_sectors(BatchBuilder rows, bint stored, int64_t guest, int64_t length, int64_t place) except -1:
    if stored:
        return append_data(rows, guest, length, 0, place)
    append_zero(rows, guest, length)
    return 0
