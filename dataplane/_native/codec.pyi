"""The codec: zstd in both directions and inflate, many chunks at a call, every output bounded before it is written."""

from enum import IntEnum

from _typeshed import ReadableBuffer, WriteableBuffer

LEVEL_MIN: int
LEVEL_MAX: int

class Codec(IntEnum):
    """How bytes are stored; the values of dataplane.extent.ExtentCodec."""

    RAW = 0
    DEFLATE = 1
    ZLIB = 2
    ZSTD = 3

class Encoder:
    """One thread's compressor. Not safe for concurrent use."""

    def __init__(self, level: int | None) -> None: ...
    def encode(
        self,
        plain: ReadableBuffer,
        chunk_size: int,
        digests: ReadableBuffer,
        states: ReadableBuffer,
        encoded: WriteableBuffer,
        ids: WriteableBuffer,
        lengths: WriteableBuffer,
    ) -> tuple[int, int]: ...
    def encode_bytes(self, plain: ReadableBuffer) -> bytes: ...
    def encoded_length(self, plain: ReadableBuffer, room: WriteableBuffer) -> int: ...

class Decoder:
    """One thread's decompressors. Not safe for concurrent use."""

    def __init__(self) -> None: ...
    def decode_bytes(self, codec: int, encoded: ReadableBuffer, length: int) -> bytes | None: ...
