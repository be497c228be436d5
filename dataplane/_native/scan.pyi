"""The scan kernel: zero test and digest of every chunk of a buffer in one pass; and digests of single buffers."""

from enum import IntEnum

from _typeshed import ReadableBuffer, WriteableBuffer

class ChunkState(IntEnum):
    """What is known of a chunk, in the order in which it becomes known."""

    ABSENT = 0
    LOADED = 1
    ZERO = 2
    DATA = 3
    NEW = 4
    SEEN = 5
    STORED = 6

def choose_variant(name: str | None = None) -> str: ...
def chosen_variant() -> str: ...
def variants() -> list[str]: ...
def scan_chunks(
    data: ReadableBuffer,
    chunk_size: int,
    digests: WriteableBuffer,
    states: WriteableBuffer,
    key: ReadableBuffer | None = None,
) -> None: ...
def is_zero(data: ReadableBuffer) -> bool: ...
def xxh3(data: ReadableBuffer) -> bytes: ...
def blake3(data: ReadableBuffer, key: ReadableBuffer | None = None) -> bytes: ...
