"""Runs: looking chunk ids up in mapped run files."""

from array import array

from _typeshed import ReadableBuffer, WriteableBuffer

from dataplane._native.table import DigestTable

class RunCorrupt(Exception):
    """A block of a run file does not match its checksum."""

    run: int
    offset: int
    def __init__(self, run: int, offset: int) -> None: ...

class Run:
    """One mapped run file, looked up in place; each 64 KiB block is checked when first touched."""

    pack_count: int
    def __init__(
        self,
        data: ReadableBuffer,
        *,
        filter_offset: int,
        filter_blocks: int,
        entries_offset: int,
        entry_count: int,
        sums_offset: int,
        covered: int,
        pack_count: int,
        dead: ReadableBuffer | None = None,
    ) -> None: ...
    def __len__(self) -> int: ...

class RunSet:
    """Several runs looked up as one. Packs are numbered through all of them."""

    def __init__(self, runs: list[Run]) -> None: ...
    def __len__(self) -> int: ...
    def mark_stored(self, ids: ReadableBuffer, states: WriteableBuffer) -> tuple[int, int]: ...
    def find(self, id: ReadableBuffer) -> tuple[int, int, int, int] | None: ...
    def resolve(self, ids: ReadableBuffer, wanted: DigestTable, pack: int) -> bytes: ...
    def chunks_of(self, pack: int) -> tuple[bytes, array[int], array[int], array[int]]: ...
    def locate(self, ids: ReadableBuffer, offset: int, chunk_size: int, end: int) -> memoryview: ...
