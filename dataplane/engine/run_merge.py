"""Door of the kernel that merges runs."""

from __future__ import annotations

from dataplane._native.run_merge import RunMerge

__all__ = ["RunMerge"]
