"""The door of the block io kernel: the kernel checks its own arguments, and callers give its errors their names."""

from __future__ import annotations

from dataplane._native.blockio import data_ranges, punch_hole, read_pieces, read_ranges, write_ranges

__all__ = ["data_ranges", "punch_hole", "read_pieces", "read_ranges", "write_ranges"]
