"""Door of the walk kernel: what surveys and sweeps have in common."""

from __future__ import annotations

from dataplane._native.walk import Walk

__all__ = ["Walk"]
