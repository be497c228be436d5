"""How much one folder may hold and do at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Bounds for each folder; None is no bound.

    `images`, `disks` and `snapshots` count them in whatever state, `pooled_images` the images that are pooled, `bytes`
    sums the `storage_size` of READY images, `disk_bytes` the sizes of disks, `snapshot_bytes` the sizes that the disks
    of snapshots had, and `operations` counts those that are not done.
    """

    images: int | None = None
    bytes: int | None = None
    pooled_images: int | None = None
    disks: int | None = None
    disk_bytes: int | None = None
    snapshots: int | None = None
    snapshot_bytes: int | None = None
    operations: int | None = None
