"""What a recorded trace of reads would decode, of chunks of any lengths."""

from __future__ import annotations

from collections.abc import Sequence

from dataplane.analysis.arrays import np
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy.typing as npt

    Numbers = npt.NDArray[np.int64]


class TraceReads:
    """Adds up what requests (offset and length, in bytes) decode of chunks that are given bit by bit.

    Every chunk that a request meets is decoded whole; where there is no chunk there are zeros, which cost nothing.
    Memory: 16 bytes a request.
    """

    def __init__(self, requests: Sequence[tuple[int, int]]) -> None:
        ranges = np.array(requests, dtype=np.int64).reshape(-1, 2)
        self._starts = np.sort(ranges[:, 0])
        self._ends = np.sort(ranges[:, 0] + ranges[:, 1])
        self._asked = int(ranges[:, 1].sum())
        self._decoded = 0
        self._decoded_once = 0

    def add(self, offsets: Numbers, lengths: Numbers | int) -> None:
        """Take chunks, each once, in any order; `lengths` is one for all of them or an array."""
        ends = offsets + lengths
        # The requests that begin before its end, less those that end before it begins, are those that meet a chunk.
        met = np.searchsorted(self._starts, ends) - np.searchsorted(self._ends, offsets, side="right")
        self._decoded += int((met * lengths).sum())
        self._decoded_once += int(((met > 0) * lengths).sum())

    def fields(self) -> dict[str, object]:
        """Return the sums: `amplification` is without any cache, `amplification_cached` with one that forgets
        nothing; None when nothing is asked for."""
        return {
            "requests": len(self._starts),
            "bytes_asked": self._asked,
            "bytes_decoded": self._decoded,
            "amplification": round(self._decoded / self._asked, 4) if self._asked else None,
            "amplification_cached": round(self._decoded_once / self._asked, 4) if self._asked else None,
        }
