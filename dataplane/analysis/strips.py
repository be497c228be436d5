"""Strips: how the disks of a tuning run are filled, cell by cell, at one chunk size."""

from __future__ import annotations

from collections.abc import Sequence

from dataplane.analysis.arrays import np
from dataplane.analysis.block_log import BlockLog, folded
from dataplane.analysis.mapping import Content, classify
from dataplane.engine.survey import BLOCK_ZERO

CELLS = 128
IMAGES_MAX = 20


def strips(logs: Sequence[BlockLog], virtual_sizes: Sequence[int], chunk_size: int) -> list[dict[str, object]]:
    """Return for each disk `cell_size` and its cells: bytes of (zero, unique, duplicate, shared) chunks.

    Whole chunks count, a hole as zero. Only the first IMAGES_MAX disks are looked at, and compared with each other.
    """
    levels = [folded(log.digests, chunk_size) for log in logs[:IMAGES_MAX]]
    known = [np.unique(level[level > BLOCK_ZERO]) for level in levels]
    found: list[dict[str, object]] = []
    for number, (log, level) in enumerate(zip(logs, levels, strict=False)):
        contents, _ = classify(level, [other for place, other in enumerate(known) if place != number])
        chunks = -(-virtual_sizes[number] // chunk_size)
        cell_size = max(1, -(-chunks // CELLS)) * chunk_size
        count = max(1, -(-virtual_sizes[number] // cell_size))
        offsets = (log.offsets.reshape(-1, 1) + np.arange(level.shape[1]) * chunk_size).reshape(-1)
        cells = np.minimum(offsets // cell_size, count - 1)
        flat = contents.reshape(-1)
        sizes = [
            np.bincount(cells[flat == kind], minlength=count) * chunk_size
            for kind in (Content.UNIQUE, Content.DUPLICATE, Content.SHARED)
        ]
        zero = cell_size - sum(sizes)
        found.append({"cell_size": cell_size, "cells": np.stack([zero, *sizes], axis=1).tolist()})
    return found
