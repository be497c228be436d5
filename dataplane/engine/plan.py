"""Door of the plan kernel: a checked batch of extents, cut into windows."""

from __future__ import annotations

from dataplane._native.plan import Plan

__all__ = ["Plan"]
