"""How much one folder may hold and do at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Bounds for each folder; None is no bound.

    `images` counts images in whatever state, `bytes` sums the `storage_size` of READY ones, `operations` counts those
    that are not done.
    """

    images: int | None = None
    bytes: int | None = None
    operations: int | None = None
