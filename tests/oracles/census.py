"""Chunks of whole disks counted one by one, in plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Census:
    """What several disks hold at one chunk size, in chunks that are not zero; the last of a disk is padded."""

    chunks: list[int]
    distinct: list[int]
    only_here: list[int]
    total: set[bytes]
    shared: list[list[int]]
    times: Counter[bytes]
    data_size: list[int]
    pages: list[int]


def chunks_of(disk: bytes, size: int) -> list[bytes]:
    """Return all chunks of a disk, the last one padded."""
    return [disk[at : at + size].ljust(size, b"\0") for at in range(0, len(disk), size)]


def count(disks: Sequence[bytes], size: int) -> Census:
    """Count the chunks of `disks`."""
    zero = bytes(size)
    used = [[(n, chunk) for n, chunk in enumerate(chunks_of(disk, size)) if chunk != zero] for disk in disks]
    sets = [{chunk for _, chunk in chunks} for chunks in used]
    return Census(
        chunks=[len(chunks) for chunks in used],
        distinct=[len(found) for found in sets],
        only_here=[
            len(found - set().union(*(other for m, other in enumerate(sets) if m != n))) for n, found in enumerate(sets)
        ],
        total=set().union(*sets),
        shared=[[len(left & right) for right in sets] for left in sets],
        times=Counter(chunk for chunks in used for _, chunk in chunks),
        data_size=[
            sum(min(size, len(disk) - n * size) for n, _ in chunks) for disk, chunks in zip(disks, used, strict=True)
        ],
        pages=[len({n // 1024 for n, _ in chunks}) for chunks in used],
    )
