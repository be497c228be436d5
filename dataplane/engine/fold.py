"""Door of the fold kernel: digests of larger chunks from those of smaller ones, and their keys."""

from __future__ import annotations

from dataplane._native.fold import fold, gather, tally

__all__ = ["fold", "gather", "tally"]
