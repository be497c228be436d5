"""Block tables of VDI, VHDX and VHD, checked entry by entry and turned into rows of extents, or places of bitmaps."""

from _typeshed import ReadableBuffer

from dataplane._native.allocation import Allocation
from dataplane._native.batches import BatchBuilder

def add_vdi_blocks(
    rows: BatchBuilder,
    entries: ReadableBuffer,
    first: int,
    *,
    block_size: int,
    disk_size: int,
    data_offset: int,
    file_size: int,
) -> int: ...
def add_vhdx_blocks(
    rows: BatchBuilder,
    entries: ReadableBuffer,
    first: int,
    *,
    block_size: int,
    chunk_blocks: int,
    disk_size: int,
    file_size: int,
) -> int: ...
def vhd_blocks(
    entries: ReadableBuffer,
    first: int,
    *,
    block_size: int,
    bitmap_size: int,
    disk_size: int,
    file_size: int,
    allocation: Allocation | None = None,
) -> memoryview: ...
def add_vhd_sectors(
    rows: BatchBuilder,
    bits: ReadableBuffer,
    guests: ReadableBuffer,
    places: ReadableBuffer,
    *,
    sectors: int,
    disk_size: int,
) -> int: ...
