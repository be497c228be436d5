"""Door of the survey kernel: a short digest of every block of a plan."""

from __future__ import annotations

from dataplane._native.survey import Survey, note_window

BLOCK_ABSENT = 0
"""In a log: nothing was read there."""

BLOCK_ZERO = 1
"""In a log: read, and every byte is zero. Every larger value stands for data."""

__all__ = ["BLOCK_ABSENT", "BLOCK_ZERO", "Survey", "note_window"]
