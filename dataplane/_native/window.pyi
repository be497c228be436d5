"""A window: one thread's reusable buffer that executes extents and scans the chunks while they are in the cache."""

from _typeshed import ReadableBuffer, WriteableBuffer

from dataplane._native.plan import Plan

class LoadFailure(Exception):
    """A window could not be loaded."""

    kind: str
    reader: int
    offset: int
    error: int
    def __init__(self, kind: str, reader: int, offset: int, error: int) -> None: ...

class Window:
    """A buffer of `size` bytes of the logical disk, with the state and digest of each of its chunks."""

    size: int
    chunk_size: int
    digest_size: int
    offset: int
    length: int
    chunk_count: int
    data_chunks: int
    zero_chunks: int
    data_bytes: int
    read_bytes: int
    mapped_bytes: int
    in_place: bool
    scan_only: bool
    def __init__(
        self, size: int, chunk_size: int, key: ReadableBuffer | None = None, *, scan_only: bool = False
    ) -> None: ...
    @property
    def plain(self) -> memoryview: ...
    @property
    def digests(self) -> memoryview: ...
    @property
    def states(self) -> memoryview: ...
    def load(
        self,
        plan: Plan,
        index: int,
        fds: ReadableBuffer,
        staged: ReadableBuffer | None = None,
        staging: ReadableBuffer | None = None,
    ) -> int: ...
    def load_into(self, plan: Plan, fds: ReadableBuffer, target: WriteableBuffer) -> int: ...
    def first_mismatch(self, expected: ReadableBuffer) -> int: ...
