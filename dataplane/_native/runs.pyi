"""Runs: building sorted index entries and their filter, and looking chunk ids up in mapped run files."""

from array import array

from _typeshed import ReadableBuffer, WriteableBuffer

class RunCorrupt(Exception):
    """A block of a run file does not match its checksum."""

    run: int
    offset: int
    def __init__(self, run: int, offset: int) -> None: ...

def build_filter(entries: ReadableBuffer, block_count: int) -> bytearray: ...

class RunBuilder:
    """Gathers the entries of one run. Not safe for concurrent use."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def add(
        self,
        pack: int,
        offset: int,
        ids: ReadableBuffer,
        stored_lengths: ReadableBuffer,
        plain_lengths: ReadableBuffer,
    ) -> None: ...
    def finish(self) -> bytes: ...

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
    ) -> None: ...
    def __len__(self) -> int: ...

class RunSet:
    """Several runs looked up as one. Packs are numbered through all of them."""

    def __init__(self, runs: list[Run]) -> None: ...
    def __len__(self) -> int: ...
    def mark_stored(self, ids: ReadableBuffer, states: WriteableBuffer) -> tuple[int, int]: ...
    def find(self, id: ReadableBuffer) -> tuple[int, int, int, int] | None: ...
    def chunks_of(self, pack: int) -> tuple[bytes, array[int], array[int], array[int]]: ...
    def locate(self, ids: ReadableBuffer, offset: int, chunk_size: int, end: int) -> memoryview: ...
