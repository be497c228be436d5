"""Staging: the bytes of a window fetched through readers without a file descriptor, before native code takes over."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from dataplane.engine.plan import Plan
from dataplane.limits import KIB, MIB

GAP_SIZE_MAX = 64 * KIB
"""Ranges no further apart are fetched as one: over a network a request costs more than the bytes between."""

GAPS_SIZE_MAX = 16 * MIB
"""Bytes of gaps fetched along for one window, however many gaps it has."""

Range = tuple[int, int, int]
"""(index of the reader, offset, length), bytes."""


def ranges_to_fetch(plan: Plan, index: int, descriptors: array[int]) -> list[Range]:
    """Return what window `index` reads from readers whose descriptor is -1: sorted, merged, without overlap."""
    return merge_ranges(sorted(row for row in plan.source_ranges(index) if descriptors[row[0]] < 0))


def merge_ranges(wanted: Sequence[Range]) -> list[Range]:
    """Return sorted ranges with overlaps and small gaps closed, the smallest gaps first up to GAPS_SIZE_MAX in all."""
    closed = [list(wanted[0])] if wanted else []
    gaps: list[tuple[int, int]] = []  # (bytes, index in `closed` of the range behind it)
    for reader, offset, length in wanted[1:]:
        last_reader, last_offset, last_length = closed[-1]
        gap = offset - last_offset - last_length
        if reader == last_reader and gap <= 0:
            closed[-1][2] = max(last_length, offset + length - last_offset)
            continue
        if reader == last_reader and gap <= GAP_SIZE_MAX:
            gaps.append((gap, len(closed)))
        closed.append([reader, offset, length])
    left = GAPS_SIZE_MAX
    joined = set()
    for gap, behind in sorted(gaps):
        left -= gap
        if left < 0:
            break
        joined.add(behind)
    merged: list[Range] = []
    for number, (reader, offset, length) in enumerate(closed):
        if number in joined:
            _, start, _ = merged[-1]
            merged[-1] = (reader, start, offset + length - start)
        else:
            merged.append((reader, offset, length))
    return merged
