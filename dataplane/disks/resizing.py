"""Resizing a disk, whoever has it open."""

from __future__ import annotations

import os

from dataplane.disks.control import OwnerGone, attached, tries
from dataplane.store.store import Store


def resize_disk(store: Store, path: str | os.PathLike[str], size: int) -> None:
    """Make the disk in folder `path` larger, durably, also while another process serves it.

    `size` is a multiple of 512 bytes. Raises NotFound, UsageError (smaller than it is), StoreLocked (its owner takes no
    requests, or they keep going), NoSpace or IoFailed.
    """
    for is_last in tries():
        try:
            with attached(store, path) as disk:
                disk.resize(size)
            return
        except OwnerGone:  # with what was asked done or not: it can be done again
            if is_last:
                raise
