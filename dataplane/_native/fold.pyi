"""The fold: digests of chunks twice as large from pairs of digests, so that one reading serves every chunk size; and
their keys, to be sorted and counted."""

from _typeshed import ReadableBuffer, WriteableBuffer

def fold(children: ReadableBuffer, parents: WriteableBuffer) -> None: ...
def gather(
    digests: ReadableBuffer, bits: int, image: int, keys: WriteableBuffer, low: int, high: int
) -> tuple[int, int]: ...
def tally(keys: ReadableBuffer, references: WriteableBuffer) -> int: ...
