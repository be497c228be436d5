"""Door of the fold kernel: digests of larger chunks from those of smaller ones."""

from __future__ import annotations

from dataplane._native.fold import fold

__all__ = ["fold"]
