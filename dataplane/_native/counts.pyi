"""Counting: how many roots use each chunk, kept as sorted entries that add up."""

from _typeshed import ReadableBuffer, WriteableBuffer

from dataplane._native.runs import Run

class Change:
    """What counting some chunks of a root in, or out, changes."""

    entries: bytes
    used_chunks: int
    used_size: int
    others: dict[int, tuple[int, int]]
    missing: list[bytes]
    def __init__(
        self,
        entries: bytes,
        used_chunks: int,
        used_size: int,
        others: dict[int, tuple[int, int]],
        missing: list[bytes],
    ) -> None: ...

def ids_between(page: ReadableBuffer, first: int, last: int) -> bytes: ...
def sort_distinct(ids: WriteableBuffer) -> int: ...
def count_chunks(ids: ReadableBuffer, counts: list[Run], index: list[Run], number: int, leaving: bool) -> Change: ...
