"""Streams made and undone by zlib and zstandard, whatever the size."""

from __future__ import annotations

import zlib

import zstandard

from dataplane.engine.codec import Codec

COMPRESSED = (Codec.DEFLATE, Codec.ZLIB, Codec.ZSTD)


def compress(codec: int, plain: bytes, level: int = 3) -> bytes:
    """Return `plain` as one stream of `codec`."""
    if codec == Codec.RAW:
        return plain
    if codec == Codec.ZSTD:
        return zstandard.ZstdCompressor(level=level).compress(plain)
    maker = zlib.compressobj(level, zlib.DEFLATED, -15 if codec == Codec.DEFLATE else 15)
    return maker.compress(plain) + maker.flush()


def decompress(codec: int, encoded: bytes, length: int) -> bytes | None:
    """Return the `length` bytes that `encoded` starts with, None when it does not hold exactly those."""
    if codec == Codec.RAW:
        return encoded[:length] if len(encoded) >= length else None
    try:
        if codec == Codec.ZSTD:
            plain = zstandard.ZstdDecompressor().decompressobj().decompress(encoded)
        else:
            plain = zlib.decompressobj(-15 if codec == Codec.DEFLATE else 15).decompress(encoded)
    except (zlib.error, zstandard.ZstdError):
        return None
    return plain if len(plain) == length else None
