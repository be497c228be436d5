"""Runs merged, and counts added up, by dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Place = tuple[int, int, int, int]
"""Pack, offset, stored length, plain length."""


def merge(
    runs: Sequence[Mapping[bytes, Place]], numbers: Sequence[Sequence[int | None]], spare_from: int
) -> dict[bytes, Place]:
    """Return what the merged run says: the first place of each id, those in packs from `spare_from` on last."""
    merged: dict[bytes, Place] = {}
    for spare in (False, True):
        for run, names in zip(runs, numbers, strict=True):
            for id, (pack, offset, stored_length, plain_length) in run.items():
                number = names[pack]
                if number is not None and (number >= spare_from) == spare:
                    merged.setdefault(id, (number, offset, stored_length, plain_length))
    return merged


def add_up(files: Iterable[Mapping[bytes, tuple[int, int, int]]]) -> dict[bytes, tuple[int, int, int]]:
    """Return the sums of (roots, size, owners) by id, without those that come to nothing."""
    sums: dict[bytes, tuple[int, int, int]] = {}
    for file in files:
        for id, (roots, size, owners) in file.items():
            before = sums.get(id, (0, size, 0))
            sums[id] = before[0] + roots, size, (before[2] + owners) % (1 << 64)
    return {id: counts for id, counts in sums.items() if counts[0] or counts[2]}
