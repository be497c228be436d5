"""Who keeps disks open in the server while workers take their content, so that clients can connect meanwhile."""

from __future__ import annotations

from typing import Protocol


class DiskHolder(Protocol):
    """Has disks open on behalf of operations. What cannot be opened is left to the worker."""

    def hold(self, disk_id: str) -> None:
        """Have a disk open here, if that can be, for as long as an operation takes its content."""
        ...

    def drop(self, disk_id: str) -> None:
        """Stop that, because the disk is about to go."""
        ...


class NoHolder:
    """Of a server that exports no disks: workers open them themselves."""

    def hold(self, disk_id: str) -> None:
        """Do nothing."""

    def drop(self, disk_id: str) -> None:
        """Do nothing."""
