"""Chunks scanned one by one: the zero test and the digest, by the packages of other people."""

from __future__ import annotations

from dataclasses import dataclass

import blake3
import xxhash

from dataplane.engine.scan import ChunkState


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a scan writes: one digest row and one state for each chunk."""

    digests: bytes
    states: bytes


def digest_of(chunk: bytes, key: bytes | None) -> bytes:
    """Return the keyed BLAKE3-256 of a chunk, or its XXH3-128 when there is no key."""
    if key is None:
        return xxhash.xxh3_128(chunk).digest()
    return bytes(blake3.blake3(chunk, key=key).digest())


def scan(data: bytes, chunk_size: int, key: bytes | None) -> Scanned:
    """Return the digests and states of the chunks of `data`; the digest row of a zero chunk is zeros."""
    digests, states = [], []
    for at in range(0, len(data), chunk_size):
        chunk = data[at : at + chunk_size]
        zero = chunk.count(0) == len(chunk)
        states.append(ChunkState.ZERO if zero else ChunkState.DATA)
        digests.append(bytes(16 if key is None else 32) if zero else digest_of(chunk, key))
    return Scanned(b"".join(digests), bytes(states))
