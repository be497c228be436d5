"""Extents executed one by one into a list of chunks, with every number that the engine counts on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dataplane.engine.scan import ChunkState
from dataplane.extent import Extent, ExtentKind
from tests.oracles.chunks import digest_of
from tests.oracles.codecs import decompress

ALLOCATION_SPAN = 4 << 20


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of the disk, padded with zeros to a whole one; `plain` is None where no extent has data."""

    offset: int
    plain: bytes | None
    state: ChunkState
    digest: bytes


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk in chunks, from the start of the window that its first extent lies in to the end of its last one."""

    chunks: list[Chunk]
    chunk_size: int
    end: int

    def count(self, state: ChunkState) -> int:
        """Return how many chunks have this state."""
        return sum(chunk.state == state for chunk in self.chunks)

    def data_bytes(self) -> int:
        """Return the bytes in chunks that are not all zero, clipped to the end of the disk."""
        data = [chunk for chunk in self.chunks if chunk.state == ChunkState.DATA]
        return sum(min(self.chunk_size, self.end - chunk.offset) for chunk in data)

    def digests(self) -> set[bytes]:
        """Return the digests of the chunks that are not all zero."""
        return {chunk.digest for chunk in self.chunks if chunk.state == ChunkState.DATA}

    def allocated_bytes(self) -> int:
        """Return the bytes in aligned spans of 4 MiB that hold a chunk that is not all zero."""
        spans = {chunk.offset // ALLOCATION_SPAN for chunk in self.chunks if chunk.state == ChunkState.DATA}
        return ALLOCATION_SPAN * len(spans)

    def between(self, start: int, end: int) -> list[Chunk]:
        """Return the chunks that start in `[start, end)`."""
        return [chunk for chunk in self.chunks if start <= chunk.offset < end]


def execute(
    extents: Sequence[Extent],
    readers: Sequence[bytes | bytearray],
    *,
    window_size: int,
    chunk_size: int,
    key: bytes | None,
) -> Disk:
    """Return the disk that neighbouring `extents` describe, with `readers` as the bytes they name."""
    start = extents[0].offset // window_size * window_size
    end = extents[-1].offset + extents[-1].length
    plain = bytearray(-(-(end - start) // chunk_size) * chunk_size)
    touched: set[int] = set()
    for extent in extents:
        if extent.kind == ExtentKind.DATA:
            at = extent.offset - start
            plain[at : at + extent.length] = fetch(extent, readers[extent.reader])
            touched.update(range(at // chunk_size, -(-(at + extent.length) // chunk_size)))
    chunks = []
    for number in range(len(plain) // chunk_size):
        piece = bytes(plain[number * chunk_size : (number + 1) * chunk_size])
        chunks.append(as_chunk(start + number * chunk_size, piece if number in touched else None, key))
    return Disk(chunks, chunk_size, end)


def fetch(extent: Extent, stored: bytes | bytearray) -> bytes:
    """Return the bytes of a DATA extent."""
    encoded = bytes(stored[extent.source_offset : extent.source_offset + extent.source_length])
    if not extent.decoded_length:
        return encoded
    decoded = decompress(extent.codec, encoded, extent.decoded_length)
    assert decoded is not None
    return decoded[extent.decoded_offset : extent.decoded_offset + extent.length]


def as_chunk(offset: int, plain: bytes | None, key: bytes | None) -> Chunk:
    """Return a chunk with its state and digest."""
    none = bytes(16 if key is None else 32)
    if plain is None:
        return Chunk(offset, None, ChunkState.ABSENT, none)
    if plain.count(0) == len(plain):
        return Chunk(offset, plain, ChunkState.ZERO, none)
    return Chunk(offset, plain, ChunkState.DATA, digest_of(plain, key))
