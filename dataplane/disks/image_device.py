"""An image of a store read at random places, without a disk: for whoever only reads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from dataplane.disks.base import StoredBase
from dataplane.disks.chunk_cache import ChunkCache
from dataplane.disks.disk import Span
from dataplane.disks.pool import Pool
from dataplane.errors import DataplaneError, UsageError
from dataplane.store.lease import reading
from dataplane.store.store import Store

RENEWAL_S = 600.0
"""A lease keeps everything that was condemned after it was taken: an old one would keep all garbage of a store."""


class ImageDevice:
    """An image that stays readable while this is open, also when it is removed. Safe for concurrent use."""

    read_only = True

    def __init__(
        self,
        store: Store,
        name: str,
        cache: ChunkCache,
        renewal_s: float = RENEWAL_S,
        find_pool: Callable[[bytes], Pool | None] | None = None,
    ) -> None:
        """Open image `name`; `find_pool` is asked for the pool of its root.

        Raises NotFound, Corrupt, NoSpace or IoFailed.
        """
        self._store = store
        self._renewal_s = renewal_s
        self._leases = contextlib.ExitStack()
        pin = self._leases.enter_context(store.reading(name))
        try:
            pool = find_pool(pin.root) if find_pool is not None else None
            self._base = StoredBase(store, pin.root, pin.domain, cache, pool)
        except BaseException:
            self._leases.close()
            raise
        self._domain = pin.domain
        self.size = pin.virtual_size
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease-renewal", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._closed.wait(self._renewal_s):
            fresh = contextlib.ExitStack()
            with contextlib.suppress(DataplaneError):  # the old one holds until the next try
                fresh.enter_context(reading(self._store.layout, self._store.ledger, "nbd", self._base.id, self._domain))
                before, self._leases = self._leases, fresh
                before.close()

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset`; raises UsageError, Corrupt or IoFailed."""
        self._check_range(offset, len(view))
        self._base.read_into(offset, view)

    def read_cached(self, offset: int, view: memoryview) -> bool:
        """Fill `view` when that takes no wait for a disk, and tell whether it did. Raises UsageError."""
        self._check_range(offset, len(view))
        return self._base.read_cached(offset, view)

    def extents(self, offset: int, length: int) -> Iterator[Span]:
        """Yield the runs that make up a range, by chunks. Raises UsageError or Corrupt."""
        self._check_range(offset, length)
        for count, data in self._base.extents(offset, length):
            yield Span(count, hole=not data, zero=not data)

    def warm(self, offset: int, length: int) -> None:
        """Bring a range into the cache; raises Corrupt or IoFailed."""
        self._base.warm(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Raise UsageError."""
        raise UsageError("an image is not written to: make a disk of it")

    def write_zeroes(self, offset: int, length: int) -> None:
        """Raise UsageError."""
        raise UsageError("an image is not written to: make a disk of it")

    trim = write_zeroes

    def flush(self) -> None:
        """Nothing waits to be written."""

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset > self.size or length > self.size - offset:
            raise UsageError(f"{length} bytes at {offset} are not all within a disk of {self.size}")

    def close(self) -> None:
        """Give the lease back; a second call does nothing."""
        self._closed.set()
        self._thread.join()
        self._leases.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
