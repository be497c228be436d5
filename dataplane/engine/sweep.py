"""Door of the sweep kernel: analysis of a whole plan in one native loop."""

from __future__ import annotations

from dataplane._native.sweep import Sweep

__all__ = ["Sweep"]
