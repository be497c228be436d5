"""Exports: what a server serves under which name, decided by whoever runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from dataplane.dataclass import dataclass
from dataplane.disks.disk import Span


class BlockDevice(Protocol):
    """What is served: a ``Disk``, or anything that reads like one. Called from several threads at once."""

    @property
    def size(self) -> int:
        """Bytes there are."""

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset`."""

    def read_cached(self, offset: int, view: memoryview) -> bool:
        """Fill `view` when that takes no wait, and tell whether it did."""

    def extents(self, offset: int, length: int) -> Iterator[Span]:
        """Yield the runs that make up a range."""

    def warm(self, offset: int, length: int) -> None:
        """Bring a range into memory."""

    def write(self, offset: int, data: bytes) -> None:
        """Write `data`."""

    def write_zeroes(self, offset: int, length: int) -> None:
        """Let a range read as zeros."""

    def trim(self, offset: int, length: int) -> None:
        """Give up what a range holds."""

    def flush(self) -> None:
        """Make everything written so far durable."""


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A device under a name. `closed` is called when the connection that asked for it ends.

    With `read_only` this client may not write, whatever the device takes from others.
    """

    name: str
    device: BlockDevice
    description: str = ""
    closed: Callable[[], None] = nothing
    read_only: bool = False

    @property
    def refuses_writes(self) -> bool:
        """Whether writes of this client are refused."""
        return self.read_only or self.device.read_only


class Exports(Protocol):
    """Where a server finds exports. Called from the server's event loop."""

    async def find(self, name: str) -> Export | None:
        """Return the export that a client names, None for one that there is not, or not for this client.

        A name may carry a secret: it is never logged.
        """

    def names(self) -> list[str]:
        """Return what a client that asks for a list may see."""


class OneExport:
    """A single device, under its name and under the empty one, which is the default."""

    def __init__(self, device: BlockDevice, name: str = "", description: str = "") -> None:
        self._export = Export(name=name, device=device, description=description)

    async def find(self, name: str) -> Export | None:
        """Return the export."""
        return self._export if name in ("", self._export.name) else None

    def names(self) -> list[str]:
        """Return its name."""
        return [self._export.name]
