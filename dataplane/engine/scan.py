"""Door of the scan kernel: digests, the zero test and the states of a chunk."""

from __future__ import annotations

from dataplane._native.scan import (
    ChunkState,
    blake3,
    choose_variant,
    chosen_variant,
    is_zero,
    scan_chunks,
    variants,
    xxh3,
)

DIGEST_SIZE = 32
"""Bytes of a keyed BLAKE3-256: the length of a chunk id and of its key."""

__all__ = [
    "DIGEST_SIZE",
    "ChunkState",
    "blake3",
    "choose_variant",
    "chosen_variant",
    "is_zero",
    "scan_chunks",
    "variants",
    "xxh3",
]
