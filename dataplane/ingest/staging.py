"""Staging: the bytes of a window fetched through readers without a file descriptor, before native code takes over."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from dataplane.engine.plan import Plan
from dataplane.image_source import ImageSource
from dataplane.limits import KIB

GAP_MAX = 64 * KIB
"""Ranges no further apart are fetched as one: over a network a request costs more than the bytes between."""


@dataclass(frozen=True, slots=True)
class Staged:
    """Fetched bytes: `rows` are int64 (reader, source offset, length, position in `data`); None when there are none."""

    rows: memoryview | None
    data: bytes | None


NOTHING_STAGED = Staged(None, None)


def stage(source: ImageSource, plan: Plan, index: int, descriptors: array[int]) -> Staged:
    """Fetch what window `index` reads from readers whose descriptor is -1. Raises what their ``read_at`` raises."""
    wanted = sorted(row for row in plan.source_ranges(index) if descriptors[row[0]] < 0)
    if not wanted:
        return NOTHING_STAGED
    rows = array("q")
    pieces = []
    position = 0
    for reader, offset, length in merge_ranges(wanted):
        pieces.append(source.readers[reader].read_at(offset, length))
        rows.extend((reader, offset, length, position))
        position += length
    return Staged(memoryview(rows).cast("B").cast("q", (len(rows) // 4, 4)), b"".join(pieces))


def merge_ranges(wanted: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Return sorted (reader, offset, length) with near neighbours joined."""
    merged: list[tuple[int, int, int]] = []
    for reader, offset, length in wanted:
        if merged:
            last_reader, last_offset, last_length = merged[-1]
            if reader == last_reader and offset <= last_offset + last_length + GAP_MAX:
                merged[-1] = (reader, last_offset, max(last_length, offset + length - last_offset))
                continue
        merged.append((reader, offset, length))
    return merged
