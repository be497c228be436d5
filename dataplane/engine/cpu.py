"""Door of the CPU kernel: what this machine has and which library versions were built in."""

from __future__ import annotations

from dataplane._native.cpu import features, library_versions, machine

__all__ = ["features", "library_versions", "machine"]
