"""Building runs: sorted index entries and the filter in front of them."""

from _typeshed import ReadableBuffer, WriteableBuffer

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

def build_filter(entries: ReadableBuffer, block_count: int) -> bytearray: ...
def add_to_filter(blocks: WriteableBuffer, entries: ReadableBuffer) -> None: ...
