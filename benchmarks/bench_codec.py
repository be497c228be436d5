"""The codec on chunks of a real disk, beside the packages that do the same."""

from __future__ import annotations

import zlib
from array import array

import pytest
import zstandard

from benchmarks.beside import Beside
from dataplane.engine.codec import Codec, Decoder, Encoder
from dataplane.engine.scan import ChunkState
from dataplane.limits import KIB, MIB

CHUNK = 64 * KIB
SIZE = 64 * MIB


@pytest.fixture(scope="module")
def chunks(unique_chunks: memoryview) -> list[memoryview]:
    """64 MiB of chunks from the middle of the disk."""
    start = max(0, (len(unique_chunks) // 2 - SIZE // 2) // CHUNK * CHUNK)
    part = unique_chunks[start : start + SIZE]
    return [part[at : at + CHUNK] for at in range(0, len(part), CHUNK)]


@pytest.mark.parametrize("level", [1, 3])
def test_codec_encode(beside: Beside, chunks: list[memoryview], level: int) -> None:
    plain = b"".join(chunks)
    count = len(chunks)
    ids, states, room = bytes(32 * count), bytes([ChunkState.NEW]) * count, bytearray(len(plain))
    id_room, lengths = bytearray(32 * count), array("I", bytes(4 * count))
    encoder, package = Encoder(level), zstandard.ZstdCompressor(level=level)
    beside(
        lambda: encoder.encode(plain, CHUNK, ids, states, room, id_room, lengths),
        lambda: [package.compress(chunk) for chunk in chunks],
        named="the zstandard package", size=len(plain), rounds=5,
    )  # fmt: skip


def test_codec_decode_zstd(beside: Beside, chunks: list[memoryview]) -> None:
    package, decoder = zstandard.ZstdDecompressor(), Decoder()
    encoded = [zstandard.ZstdCompressor(level=1).compress(chunk) for chunk in chunks]
    beside(
        lambda: [decoder.decode_bytes(Codec.ZSTD, piece, CHUNK) for piece in encoded],
        lambda: [package.decompress(piece) for piece in encoded],
        named="the zstandard package", size=CHUNK * len(chunks), rounds=5,
    )  # fmt: skip


def test_codec_decode_deflate(beside: Beside, chunks: list[memoryview]) -> None:
    decoder = Decoder()
    part = chunks[: len(chunks) // 4]
    encoded = []
    for chunk in part:
        maker = zlib.compressobj(6, zlib.DEFLATED, -12)  # what qcow2 clusters are
        encoded.append(maker.compress(chunk) + maker.flush())
    beside(
        lambda: [decoder.decode_bytes(Codec.DEFLATE, piece, CHUNK) for piece in encoded],
        lambda: [zlib.decompress(piece, -12, CHUNK) for piece in encoded],
        named="zlib", size=CHUNK * len(part), rounds=5,
    )  # fmt: skip
