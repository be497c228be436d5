"""What every source owes the engine, checked on whole batches; fast enough to run on every input of a fuzzer."""

from __future__ import annotations

import numpy as np

from dataplane.byte_reader import ByteReader
from dataplane.engine.plan import Plan
from dataplane.extent import COLUMN_COUNT, WINDOW_SIZE, ExtentCodec, ExtentKind
from dataplane.image_source import ImageSource
from dataplane.limits import DECODED_SIZE_MAX, VIRTUAL_SIZE_MAX
from dataplane.readers.checks import check_range

ROWS_MAX = 1 << 20
"""Rows that an input of a fuzzer (at most a few MiB) may stand for."""


class MemoryReader(ByteReader):
    """Bytes in memory."""

    def __init__(self, content: bytes, name: str = "input") -> None:
        self.name = name
        self.size = len(content)
        self._content = content

    def read_at(self, offset: int, length: int) -> bytes:
        check_range(self, offset, length)
        return self._content[offset : offset + length]

    def close(self) -> None:
        pass


def check_source(source: ImageSource) -> None:
    """Read all extents and assert what ``extent.py`` and ``image_source.py`` promise. Raises SourceError."""
    assert 0 <= source.virtual_size <= VIRTUAL_SIZE_MAX + 511
    assert 0 <= source.decoded_size_max <= DECODED_SIZE_MAX
    sizes = np.array([reader.size for reader in source.readers], dtype=np.int64)
    position = rows_seen = 0
    for batch in source.extents():
        assert position % WINDOW_SIZE == 0, "a batch before the last ends inside a window"
        assert batch.shape is not None
        assert batch.shape[1] == COLUMN_COUNT
        assert 1 <= batch.shape[0] <= 8192
        Plan(batch, WINDOW_SIZE, DECODED_SIZE_MAX)  # the engine's own check
        rows = np.array(batch, dtype=np.int64)
        assert rows[0, 0] == position
        _check_rows(source, rows, sizes)
        position = int(rows[-1, 0] + rows[-1, 1])
        rows_seen += len(rows)
        assert rows_seen <= ROWS_MAX
    assert position == source.virtual_size


def _check_rows(source: ImageSource, rows: np.ndarray[tuple[int, int], np.dtype[np.int64]], sizes: object) -> None:
    offset, length, kind, codec, reader, source_offset, source_length, decoded_offset, decoded_length = rows.T
    data = kind == ExtentKind.DATA
    assert not rows[~data, 3:].any(), "columns of a hole are 0"
    assert (reader < len(source.readers)).all()
    ends = np.asarray(sizes)[reader[data]]
    assert (source_offset[data] + source_length[data] <= ends).all(), "an extent leaves its reader"
    packed = codec != ExtentCodec.RAW
    assert not decoded_offset[~packed].any()
    assert not decoded_length[~packed].any()
    assert (decoded_length[packed] <= source.decoded_size_max).all()
    assert (offset[packed] // WINDOW_SIZE == (offset + length - 1)[packed] // WINDOW_SIZE).all()
