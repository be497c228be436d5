"""Door of the window kernel: the buffer in which extents are executed and chunks scanned."""

from __future__ import annotations

from dataplane._native.window import LoadFailure, Window

__all__ = ["LoadFailure", "Window"]
