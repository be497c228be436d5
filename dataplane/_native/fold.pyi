"""The fold: digests of chunks twice as large from pairs of digests, so that one reading serves every chunk size."""

from _typeshed import ReadableBuffer, WriteableBuffer

def fold(children: ReadableBuffer, parents: WriteableBuffer) -> None: ...
