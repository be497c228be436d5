"""Door of the kernel that builds runs."""

from __future__ import annotations

from dataplane._native.run_builder import RunBuilder, add_to_filter, build_filter

__all__ = ["RunBuilder", "add_to_filter", "build_filter"]
