"""Which sizes disks may have: by their kind, and by the size of their blocks."""

from __future__ import annotations

from collections.abc import Iterator

from service.model import BLOCK_SIZE_DEFAULT, DISK_SIZE_STEP

GIB = 1 << 30
SIZE_MIN = DISK_SIZE_STEP
SIZE_MAX = 28_587_302_322_176
BLOCK_SIZES = tuple(4096 << doubled for doubled in range(6))
SIZE_MAX_OF_SMALLEST_BLOCK = 8192 * GIB
"""Twice as much for each doubling of the block."""

STEPS = {
    "network-hdd": DISK_SIZE_STEP,
    "network-ssd": DISK_SIZE_STEP,
    "network-ssd-nonreplicated": 93 * GIB,
    "network-ssd-io-m3": 93 * GIB,
}
"""The kinds of disks there are, and what the sizes of each are multiples of, in bytes."""


def problems(size: int, *, type_id: str, block_size: int) -> Iterator[str]:
    """Yield what is wrong with the size of a disk of a known kind and block size, all in bytes."""
    if not SIZE_MIN <= size <= SIZE_MAX:
        yield f"{size} is not in the range {SIZE_MIN} to {SIZE_MAX}"
    step = STEPS[type_id]
    if size % step:
        yield f"{size} is not a multiple of {step}, as disks of type {type_id} have to be"
    most = SIZE_MAX_OF_SMALLEST_BLOCK * (block_size // BLOCK_SIZE_DEFAULT)
    if size > most:
        yield f"{size} is more than a disk with blocks of {block_size} can have: {most}"
