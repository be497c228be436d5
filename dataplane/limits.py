"""Bounds on what untrusted input may make this program allocate, loop over or wait for."""

from __future__ import annotations

from dataplane.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

SECTOR_SIZE = 512

CHUNK_SIZE_MIN = 4 * KIB
CHUNK_SIZE_MAX = 4 * MIB
CHUNK_SIZE_DEFAULT = 64 * KIB

VIRTUAL_SIZE_MAX = 1 << 50
"""1 PiB: far above any disk, far below where a sum of two offsets could leave a signed 64-bit integer."""

L1_TABLE_SIZE_MAX = 32 * MIB
"""qcow2 first-level table, in bytes; the bound qemu uses."""

DESCRIPTOR_SIZE_MAX = MIB
"""VMDK text descriptor, in bytes."""

BACKING_CHAIN_MAX = 64
"""Images in one chain of backing files."""

DECODED_SIZE_MAX = 4 * MIB
"""Largest piece that one compressed extent may decode to, in bytes (a qcow2 cluster is at most 2 MiB)."""

ZSTD_WINDOW_LOG_MAX = 23
"""8 MiB: the largest history a zstd frame in a source may ask the decoder to keep."""

PACK_SIZE_MAX = 64 * MIB
"""A pack is closed before it grows past this many bytes of encoded chunks."""

PAGE_CHUNKS = 1024
"""Chunk ids in one manifest page."""

NAME_LENGTH_MAX = 255
"""Characters in the name of an image in a store."""

GRAIN_DIRECTORY_SIZE_MAX = 32 * MIB
"""VMDK grain directory of one extent, in bytes: 256 TiB of disk at the usual 64 KiB a grain."""

DESCRIPTOR_EXTENTS_MAX = 10_000
"""Extents that one VMDK descriptor may list."""

BLOCK_MAP_SIZE_MAX = 768 * MIB
"""Table of blocks of a VHD, VHDX or VDI image, in bytes, read a slice at a time; a VHDX of 64 TiB takes 513 MiB."""


def check_chunk_size(chunk_size: int) -> None:
    """Raise UsageError unless `chunk_size` is a power of two within the limits."""
    if not CHUNK_SIZE_MIN <= chunk_size <= CHUNK_SIZE_MAX or chunk_size & (chunk_size - 1):
        raise UsageError(f"chunk size {chunk_size} is not a power of two from {CHUNK_SIZE_MIN} to {CHUNK_SIZE_MAX}")
