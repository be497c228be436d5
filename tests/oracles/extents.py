"""Extents executed byte by byte, and the promises of ImageSource checked one by one."""

from __future__ import annotations

import zlib
from itertools import pairwise

import zstandard

from dataplane.errors import InvalidImage
from dataplane.extent import COLUMN_COUNT, WINDOW_SIZE, Extent, ExtentCodec, ExtentKind, unpack_batch
from dataplane.image_source import ImageSource


def read_all(source: ImageSource) -> bytes:
    """Return the whole disk that ``source`` describes."""
    disk = bytearray(source.virtual_size)
    for batch in source.extents():
        for extent in unpack_batch(batch):
            if extent.kind == ExtentKind.DATA:
                disk[extent.offset : extent.offset + extent.length] = read_extent(source, extent)
    return bytes(disk)


def read_extent(source: ImageSource, extent: Extent) -> bytes:
    """Return the bytes of one DATA extent; raises InvalidImage when they do not decode."""
    stored = source.readers[extent.reader].read_at(extent.source_offset, extent.source_length)
    if extent.codec == ExtentCodec.RAW:
        return stored
    decoded = decode(extent.codec, stored, extent.decoded_length)
    return decoded[extent.decoded_offset : extent.decoded_offset + extent.length]


def decode(codec: int, stored: bytes, length: int) -> bytes:
    """Return the ``length`` bytes at the start of what ``stored`` decodes to."""
    try:
        if codec == ExtentCodec.ZSTD:
            decoded = zstandard.ZstdDecompressor().stream_reader(stored).read(length)
        else:
            wbits = {ExtentCodec.DEFLATE: -15, ExtentCodec.ZLIB: 15}[ExtentCodec(codec)]
            decoded = zlib.decompressobj(wbits).decompress(stored, length)
    except (zlib.error, zstandard.ZstdError) as error:
        raise InvalidImage(f"a compressed extent does not decode: {error}") from error
    if len(decoded) != length:
        raise InvalidImage(f"a compressed extent decodes to {len(decoded)} bytes, not {length}")
    return decoded


def checked_extents(source: ImageSource) -> list[Extent]:
    """Return every extent of ``source`` after asserting all that ``extent.py`` and ``image_source.py`` promise."""
    extents: list[Extent] = []
    position = 0
    last_seen = False
    for batch in source.extents():
        assert not last_seen, "a batch before the last ends inside a window"
        assert batch.c_contiguous
        assert batch.itemsize == 8
        assert batch.ndim == 2
        assert batch.shape is not None
        assert batch.shape[1] == COLUMN_COUNT
        assert 1 <= batch.shape[0] <= 8192
        rows = list(unpack_batch(batch))
        for extent in rows:
            assert extent.offset == position, f"gap or overlap before {extent}"
            check_extent(source, extent)
            position += extent.length
        for left, right in pairwise(rows):
            assert not _can_merge(left, right), f"{left} and {right} are one extent"
        last_seen = position % WINDOW_SIZE != 0
        extents += rows
    assert position == source.virtual_size
    return extents


def check_extent(source: ImageSource, extent: Extent) -> None:
    """Assert what holds for every extent on its own."""
    assert extent.length > 0
    if extent.kind in (ExtentKind.HOLE, ExtentKind.ZERO):
        assert extent[3:] == (0, 0, 0, 0, 0, 0)
        return
    assert extent.kind == ExtentKind.DATA
    assert 0 <= extent.reader < len(source.readers)
    assert extent.source_offset >= 0
    assert extent.source_length > 0
    assert extent.source_offset + extent.source_length <= source.readers[extent.reader].size
    if extent.codec == ExtentCodec.RAW:
        assert extent.source_length == extent.length
        assert (extent.decoded_offset, extent.decoded_length) == (0, 0)
        return
    assert extent.codec in list(ExtentCodec)
    assert extent.decoded_offset >= 0
    assert extent.decoded_offset + extent.length <= extent.decoded_length <= source.decoded_size_max


def _can_merge(left: Extent, right: Extent) -> bool:
    if left.kind != right.kind:
        return False
    if left.kind != ExtentKind.DATA:
        return True
    return (
        left.codec == right.codec == ExtentCodec.RAW
        and left.reader == right.reader
        and left.source_offset + left.source_length == right.source_offset
    )
