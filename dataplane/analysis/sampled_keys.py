"""Keys of sampled chunks: those whose digests have low bits of zero, with counts, in bounded memory."""

from __future__ import annotations

from dataplane.analysis.arrays import np
from dataplane.analysis.counting import Occurrences
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy.typing as npt

    from dataplane.analysis.block_log import Digests

PENDING_MAX = 1 << 16
"""Occurrences that wait to be counted together."""


class SampledKeys:
    """Chunks of one size that were kept, with how often each occurs and where first."""

    def __init__(self, bits: int, rate: int) -> None:
        """`bits`: how many low bits of a key name the image; one digest in `rate`, a power of two, is kept."""
        self._bits = bits
        self.rate = rate
        self.keys = np.empty(0, dtype=np.uint64)
        self.counts = np.empty(0, dtype=np.int64)
        self.offsets = np.empty(0, dtype=np.int64)
        self._pending: list[tuple[Digests, npt.NDArray[np.int64]]] = []
        self._pending_count = 0

    def __len__(self) -> int:
        return len(self.keys) + self._pending_count

    def add(self, keys: Digests, offsets: npt.NDArray[np.int64]) -> None:
        """Take occurrences, as keys and offsets on their disk."""
        kept = self._is_kept(keys)
        if kept.any():
            self._pending.append((keys[kept], offsets[kept]))
            self._pending_count += int(np.count_nonzero(kept))
        if self._pending_count > PENDING_MAX:
            self.settle()

    def settle(self) -> None:
        """Count what is pending."""
        if not self._pending:
            return
        keys = np.concatenate([self.keys, *(keys for keys, _ in self._pending)])
        offsets = np.concatenate([self.offsets, *(offsets for _, offsets in self._pending)])
        counts = np.concatenate([self.counts, np.ones(self._pending_count, dtype=np.int64)])
        order = np.argsort(keys, kind="stable")  # stable: the first of equal keys is the first that was met
        keys, offsets, counts = keys[order], offsets[order], counts[order]
        starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        self.keys, self.offsets, self.counts = keys[starts], offsets[starts], np.add.reduceat(counts, starts)
        self._pending.clear()
        self._pending_count = 0

    def thin(self, rate: int) -> None:
        """Keep only one digest in `rate` from now on, a multiple of what it was."""
        self.settle()
        self.rate = rate
        kept = self._is_kept(self.keys)
        self.keys, self.counts, self.offsets = self.keys[kept], self.counts[kept], self.offsets[kept]

    def occurrences(self) -> Occurrences:
        """Return all groups."""
        self.settle()
        return Occurrences(keys=self.keys, counts=self.counts)

    def _is_kept(self, keys: Digests) -> npt.NDArray[np.bool_]:
        kept: npt.NDArray[np.bool_] = (keys >> np.uint64(self._bits)) & np.uint64(self.rate - 1) == 0
        return kept
