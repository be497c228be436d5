"""Decoded chunks kept in memory, by id, within a budget: those used last stay."""

from __future__ import annotations

import threading
from collections import OrderedDict

from dataplane.limits import MIB

CACHE_SIZE_DEFAULT = 128 * MIB


class ChunkCache:
    """Verified chunks by id; `puts` counts those that came in.

    Safe for concurrent use; several disks may share one, and chunks they have in common. Ids of two
    dedup domains never collide: they are keyed digests.
    """

    def __init__(self, size_max: int = CACHE_SIZE_DEFAULT) -> None:
        """Keep at most `size_max` bytes."""
        self.size_max = size_max
        self.size = 0
        self.puts = 0
        self._chunks: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, id: bytes) -> bytes | None:
        """Return a chunk, or None when it is not kept."""
        with self._lock:
            chunk = self._chunks.get(id)
            if chunk is not None:
                self._chunks.move_to_end(id)
            return chunk

    def has(self, id: bytes) -> bool:
        """Return whether a chunk is kept."""
        return id in self._chunks

    def put(self, id: bytes, chunk: bytes) -> None:
        """Keep a chunk; those not used for longest go when there are too many."""
        if len(chunk) > self.size_max:
            return
        with self._lock:
            self.puts += 1
            before = self._chunks.pop(id, None)
            self.size += len(chunk) - (len(before) if before is not None else 0)
            self._chunks[id] = chunk
            while self.size > self.size_max:
                _, dropped = self._chunks.popitem(last=False)
                self.size -= len(dropped)
