"""Door of the run kernel: looking up sorted index files."""

from __future__ import annotations

from dataplane._native.runs import Run, RunCorrupt, RunSet

__all__ = ["Run", "RunCorrupt", "RunSet"]
