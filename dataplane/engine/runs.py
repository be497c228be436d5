"""Door of the run kernel: building and looking up sorted index files."""

from __future__ import annotations

from dataplane._native.runs import Run, RunBuilder, RunCorrupt, RunSet, build_filter

__all__ = ["Run", "RunBuilder", "RunCorrupt", "RunSet", "build_filter"]
