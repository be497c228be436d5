"""Door of the digest table."""

from __future__ import annotations

from dataplane._native.table import DigestTable

__all__ = ["DigestTable"]
