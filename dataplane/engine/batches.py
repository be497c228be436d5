"""Door of the builder of batches, and of layers of batches."""

from __future__ import annotations

from dataplane._native.batches import BatchBuilder, MapFault, first_hole, lay_over, moved

__all__ = ["BatchBuilder", "MapFault", "first_hole", "lay_over", "moved"]
