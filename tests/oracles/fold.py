"""Digests folded pair by pair, by the xxhash package."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Sequence

import xxhash


def digest_64(data: bytes) -> int:
    """Return the first eight bytes of the XXH3-128 of `data` as an integer."""
    value: int = struct.unpack("=Q", xxhash.xxh3_128(data).digest()[:8])[0]
    return value


def short_digest(data: bytes) -> int:
    """Return the same, 2 more when it is 0 or 1."""
    value = digest_64(data)
    return value if value > 1 else value + 2


def fold(children: Sequence[int]) -> list[int]:
    """Return one digest for each pair: 0 absent, 1 zero, as their children are, or that of the two together."""
    parents = []
    for left, right in zip(children[::2], children[1::2], strict=True):
        if left <= 1 and right <= 1:
            parents.append(max(left, right))
        else:
            parents.append(short_digest(struct.pack("=QQ", left if left > 1 else 0, right if right > 1 else 0)))
    return parents


def keys(digests: Sequence[int], bits: int, image: int) -> list[int]:
    """Return the key of each digest that stands for data."""
    return [digest >> bits << bits | image for digest in digests if digest > 1]


def tally(keys: Sequence[int], buckets: int) -> tuple[int, list[int]]:
    """Return how many distinct keys there are, and how many occur 1, 2, 3-4, 5-8, ... times."""
    references = [0] * buckets
    for count in Counter(keys).values():
        references[min(buckets - 1, math.ceil(math.log2(count)))] += 1
    return len(set(keys)), references
