"""Door of the kernel that counts who uses which chunk."""

from __future__ import annotations

from dataplane._native.counts import Change, count_chunks, ids_between, sort_distinct

__all__ = ["Change", "count_chunks", "ids_between", "sort_distinct"]
