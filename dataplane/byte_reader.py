"""ByteReader: where an image's stored bytes come from, seen as one flat range of bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod


class ByteReader(ABC):
    """Random access to the bytes of one file, block device or URL. Safe to call from several threads at once."""

    name: str
    """What to call this source in messages; never holds the query of a URL, which may be a secret."""

    size: int
    """Bytes there are; fixed while the reader is open."""

    validator: str = ""
    """What tells this version of the bytes from others as far as their server says so; empty when it does not."""

    has_holes: bool = False
    """Whether some of the bytes may be holes, so that ``data_ranges`` is worth asking."""

    def fileno(self) -> int | None:
        """Return a descriptor that native code may ``pread``, or None when bytes come through ``read_at`` only."""
        return None

    @abstractmethod
    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``.

        Raises InvalidImage when the range is not wholly inside the source, SourceUnavailable when reading fails.
        """

    def data_ranges(self, offset: int, end: int, limit: int) -> memoryview:
        """Return up to ``limit`` allocated ranges that meet ``[offset, end)`` as int64 rows ``(offset, length)``.

        Rows are sorted, disjoint and clipped to the asked range; bytes between them are holes and read as zeros.
        When exactly ``limit`` rows come back there may be more behind the last one. Without knowledge of holes the
        whole range is one row.
        """
        from array import array

        return memoryview(array("q", (offset, end - offset))).cast("B").cast("q", (1, 2))

    def version(self) -> str | None:
        """Return a name of these very bytes that is the same when they are opened again, or None when there is none.

        It may hold parts of paths and URLs: for digests, not for messages.
        """
        return None

    def check_unchanged(self) -> None:
        """Raise SourceUnavailable when the source is known to have changed since it was opened."""

    @abstractmethod
    def close(self) -> None:
        """Release what the reader holds; a second call does nothing."""
