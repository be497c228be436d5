"""Door of the kernel that builds runs."""

from __future__ import annotations

from dataplane._native.run_builder import RunBuilder, build_filter

__all__ = ["RunBuilder", "build_filter"]
