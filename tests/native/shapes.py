"""Buffers in the shapes that kernels take."""

from __future__ import annotations

from array import array
from collections.abc import Sequence


def int64_rows(rows: Sequence[Sequence[int]], columns: int) -> memoryview:
    """Return rows of signed 64-bit integers as one C-contiguous view of shape (rows, columns)."""
    flat = array("q", [cell for row in rows for cell in row] or [0] * columns)
    view = memoryview(flat).cast("B").cast("q", (len(flat) // columns, columns))
    return view if rows else view[:0]


def uint32s(values: Sequence[int]) -> memoryview:
    """Return 32-bit integers as one writable view."""
    return memoryview(array("I", values))


def unaligned(data: bytes, shift: int) -> memoryview:
    """Return a writable copy of `data` that starts `shift` bytes behind an aligned place."""
    room = bytearray(shift) + data
    return memoryview(room)[shift:]
