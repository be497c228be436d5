"""Door of the cutter kernel: content-defined chunks of several average sizes."""

from __future__ import annotations

from dataplane._native.cutter import Cutter

__all__ = ["Cutter"]
