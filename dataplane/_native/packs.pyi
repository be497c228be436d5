"""Packs: which chunks of a pack's table to read, as extents."""

from _typeshed import ReadableBuffer

from dataplane._native.table import DigestTable

def select_chunks(
    ids: ReadableBuffer,
    offsets: ReadableBuffer,
    stored_lengths: ReadableBuffer,
    plain_lengths: ReadableBuffer,
    chunk_size: int,
    position: int,
    reader: int,
    wanted: DigestTable | None = None,
    share: float = 1.0,
    seed: int = 0,
) -> tuple[memoryview | None, bytes, list[int]]: ...
