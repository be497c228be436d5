"""Which 4 KiB blocks of an ext4 file system are free, read from its block bitmaps. Input is hostile."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dataplane.analysis.arrays import np
from dataplane.analysis.labels import Partition
from dataplane.analysis.logical import read_ranges
from dataplane.hints import TYPE_CHECKING
from dataplane.image_source import ImageSource

if TYPE_CHECKING:
    import numpy.typing as npt

    Blocks = npt.NDArray[np.bool_]

BLOCK_SIZE = 4096
SUPERBLOCK_OFFSET = 1024
SUPERBLOCK_SIZE = 1024
MAGIC = 0xEF53
INCOMPAT_META_BG = 0x10
INCOMPAT_64BIT = 0x80
RO_COMPAT_BIGALLOC = 0x200
BLOCK_UNINIT = 0x2
BITMAPS_AT_ONCE = 512

GROUPS_MAX = 1 << 18
"""32 TiB in groups of the usual 128 MiB; bounds the table of descriptors."""


def free_blocks(source: ImageSource, partition: Partition) -> Iterator[tuple[int, Blocks]]:
    """Yield (offset on the disk, flags) for each block group: which 4 KiB blocks from there on are wholly free.

    Yields nothing for what is not understood: damaged or exotic file systems (bigalloc, meta_bg), blocks above 4 KiB,
    and partitions off a 4 KiB boundary. Bitmaps are read some hundred at a time. Raises SourceError or Corrupt when
    reading fails.
    """
    layout = Layout.read(source, partition)
    if layout is None:
        return
    for first in range(0, layout.groups, BITMAPS_AT_ONCE):
        numbers = range(first, min(first + BITMAPS_AT_ONCE, layout.groups))
        places = [layout.bitmap_of(number) for number in numbers]
        wanted = [(place, layout.block_size) for place in places if place is not None]
        bitmaps = iter(read_ranges(source, wanted))
        for number, place in zip(numbers, places, strict=True):
            free = layout.uninitialised(number) if place is None else layout.free_in(number, next(bitmaps))
            start = layout.start_of(number)
            skipped = -start % BLOCK_SIZE // layout.block_size
            per_block = BLOCK_SIZE // layout.block_size
            parts = free[skipped:]
            parts = parts[: len(parts) // per_block * per_block]
            whole: Blocks = np.all(parts.reshape(-1, per_block), axis=1)
            yield start + skipped * layout.block_size, whole


class Layout:
    """Where the block groups of a file system lie, with everything checked against the partition."""

    def __init__(self, partition: Partition, fields: bytes) -> None:
        self._partition = partition
        (low,) = struct.unpack_from("<I", fields, 4)
        self.first_block, log_size = struct.unpack_from("<II", fields, 20)
        (self.per_group,) = struct.unpack_from("<I", fields, 32)
        self.incompat, self.ro_compat = struct.unpack_from("<II", fields, 96)
        (self.reserved_gdt,) = struct.unpack_from("<H", fields, 206)
        (desc_size,) = struct.unpack_from("<H", fields, 254)
        (high,) = struct.unpack_from("<I", fields, 336)
        wide = bool(self.incompat & INCOMPAT_64BIT)
        self.desc_size = desc_size if wide else 32
        self.blocks = low | (high << 32 if wide else 0)
        self.block_size = 1024 << min(log_size, 16)
        self.descriptors = b""

    @classmethod
    def read(cls, source: ImageSource, partition: Partition) -> Layout | None:
        """Return the layout of the file system, or None when it is not understood."""
        (fields,) = read_ranges(source, [(partition.offset + SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE)])
        if len(fields) < SUPERBLOCK_SIZE or struct.unpack_from("<H", fields, 56) != (MAGIC,):
            return None
        layout = cls(partition, fields)
        if not layout.is_plain():
            return None
        table = partition.offset + (layout.first_block + 1) * layout.block_size
        (layout.descriptors,) = read_ranges(source, [(table, layout.groups * layout.desc_size)])
        return layout if len(layout.descriptors) == layout.groups * layout.desc_size else None

    def is_plain(self) -> bool:
        """Return whether the numbers make sense and nothing exotic is in use."""
        return (
            self.block_size <= BLOCK_SIZE
            and 32 <= self.desc_size <= 1024
            and 0 < self.per_group <= 8 * self.block_size
            and self.first_block < self.blocks
            and self.groups <= GROUPS_MAX
            and self.blocks * self.block_size <= self._partition.length
            and self._partition.offset % BLOCK_SIZE == 0
            and not self.incompat & INCOMPAT_META_BG
            and not self.ro_compat & RO_COMPAT_BIGALLOC
        )

    @property
    def groups(self) -> int:
        """How many block groups there are."""
        return int(-(-(self.blocks - self.first_block) // self.per_group))

    def start_of(self, number: int) -> int:
        """Return where a group begins, in bytes of the disk."""
        return int(self._partition.offset + (self.first_block + number * self.per_group) * self.block_size)

    def blocks_in(self, number: int) -> int:
        """Return how many blocks a group has."""
        return int(min(self.per_group, self.blocks - self.first_block - number * self.per_group))

    def bitmap_of(self, number: int) -> int | None:
        """Return where the bitmap of a group lies, in bytes of the disk; None when it was never written."""
        at = number * self.desc_size
        (flags,) = struct.unpack_from("<H", self.descriptors, at + 18)
        (block,) = struct.unpack_from("<I", self.descriptors, at)
        if self.desc_size >= 64:
            block |= struct.unpack_from("<I", self.descriptors, at + 32)[0] << 32
        if flags & BLOCK_UNINIT or not self.first_block <= block < self.blocks:
            return None
        return int(self._partition.offset + block * self.block_size)

    def free_in(self, number: int, bitmap: bytes) -> Blocks:
        """Return which blocks of a group are free."""
        bits = np.unpackbits(np.frombuffer(bitmap, dtype=np.uint8), bitorder="little")
        free: Blocks = bits[: self.blocks_in(number)] == 0
        return free

    def uninitialised(self, number: int) -> Blocks:
        """Return which blocks of a group without a bitmap are free: all but those where backups may lie."""
        free = np.ones(self.blocks_in(number), dtype=bool)
        free[: 2 + self.reserved_gdt + -(-self.groups * self.desc_size // self.block_size)] = False
        return free
