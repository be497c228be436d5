"""ImageSource: a disk image as the engine sees it, whatever its format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType

from dataplane.byte_reader import ByteReader
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self


class ImageSource(ABC):
    """An opened image: its size, the readers its bytes come from, and its extents.

    Opening checks headers; ``extents`` reads tables lazily. A source is used by one pipeline at a time.
    """

    format: str
    """``raw``, ``qcow2``, …: the name users know."""

    virtual_size: int
    """Bytes the guest sees."""

    readers: Sequence[ByteReader]
    """What the ``reader`` column of an extent indexes."""

    own_data: bool = False
    """Whether the bytes are this program's own (a store's packs): damage to them is corruption, not a bad source."""

    decoded_size_max: int = 0
    """No compressed extent decodes to more than this many bytes; 0 when there are none. A power of two."""

    choice: str = ""
    """What else than the bytes of its readers decides what this disk is: which snapshot was picked, say."""

    @abstractmethod
    def extents(self) -> Iterator[memoryview]:
        """Yield batches of extents (see ``dataplane.extent``) that cover ``[0, virtual_size)`` exactly, in order.

        Every batch but the last ends on a multiple of ``WINDOW_SIZE``; neighbours that can be merged are. Ranges of
        readers are checked against their sizes. Raises InvalidImage or Unsupported when a table breaks the rules.
        """

    def check_unchanged(self) -> None:
        """Raise SourceUnavailable when a reader is known to have changed since it was opened."""
        for reader in self.readers:
            reader.check_unchanged()

    def close(self) -> None:
        """Close every reader; a second call does nothing."""
        for reader in self.readers:
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
