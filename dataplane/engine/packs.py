"""Door of the pack kernel: choosing the chunks of a pack to read."""

from __future__ import annotations

from dataplane._native.packs import select_chunks

__all__ = ["select_chunks"]
