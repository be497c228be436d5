"""Door of the kernel that decodes the tables of sparse VMDK extents."""

from __future__ import annotations

from dataplane._native.grain_map import GrainMap

__all__ = ["GrainMap"]
