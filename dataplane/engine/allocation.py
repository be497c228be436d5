"""Door of the map of a file's holes."""

from __future__ import annotations

from dataplane._native.allocation import Allocation

__all__ = ["Allocation"]
