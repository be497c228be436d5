"""What a profile (chunk size and codec) costs beside the chunks themselves: index, manifests, reading."""

from __future__ import annotations

from collections.abc import Sequence

from dataplane.hints import TYPE_CHECKING
from dataplane.limits import KIB, PACK_SIZE_MAX

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TABLE_BYTES_PER_CHUNK = 60
"""The digest table of an import keeps at most so many bytes for each chunk that it meets first."""


def index_disk(entries: int, stored_size: int) -> int:
    """Return the bytes of the run files over so many stored objects of `stored_size` bytes in all."""
    from dataplane.store import format as fmt
    from dataplane.store.runs import ENTRIES_PER_RUN_MAX

    size, packs_left = 0, -(-stored_size // PACK_SIZE_MAX)
    runs = max(1, -(-entries // ENTRIES_PER_RUN_MAX))
    for number in range(runs):
        count = min(ENTRIES_PER_RUN_MAX, entries - number * ENTRIES_PER_RUN_MAX)
        packs = -(-packs_left // runs)
        layout = fmt.RunLayout.plan(packs, count)
        size += layout.sums_offset + fmt.SUM_SIZE * -(-layout.covered // fmt.RUN_BLOCK_SIZE) + fmt.RUN_FOOTER.size
    return size if entries else 0


def index_memory(entries: int, disk: int) -> int:
    """Return the bytes that an import with the whole index in memory needs: the mapped runs, and its own table."""
    return disk + TABLE_BYTES_PER_CHUNK * entries


def pack_overhead(entries: int, stored_size: int) -> int:
    """Return the bytes of headers, tables and footers of packs."""
    from dataplane.store import format as fmt

    packs = -(-stored_size // PACK_SIZE_MAX)
    return packs * (fmt.PACK_HEADER.size + fmt.PACK_FOOTER.size) + entries * fmt.PACK_ENTRY_SIZE


def manifest_size(chunks: int, pages: int) -> int:
    """Return the stored bytes of the manifest of one image: ids do not compress, zeros nearly vanish."""
    from dataplane.store import format as fmt

    return chunks * fmt.ID_SIZE + pages * (fmt.ROOT_ENTRY.size + 16) + fmt.ROOT_HEADER.size


def random_read_amplification(chunk_size: int, request_size: int, unit: int = 4 * KIB) -> float:
    """Return bytes decoded for each byte asked, by reads of `request_size` bytes at random multiples of `unit`.

    Every chunk that a request meets is read and decoded whole. Both sizes are multiples of `unit`.
    """
    chunks = 1 + (request_size - unit) / chunk_size
    return chunks * chunk_size / request_size


def trace_amplification(
    requests: Sequence[tuple[int, int]], chunk_size: int, used: npt.NDArray[np.int64]
) -> dict[str, object]:
    """Return what a trace of (offset, length) requests reads at a chunk size.

    `used` are the ascending numbers of the chunks that are not zero: only those are read. `amplification` is without
    any cache, `amplification_cached` with one that forgets nothing.
    """
    import numpy as np

    asked = decoded = 0
    touched: list[npt.NDArray[np.int64]] = []
    for offset, length in requests:
        first, last = offset // chunk_size, (offset + length - 1) // chunk_size
        start, stop = np.searchsorted(used, (first, last + 1))
        asked += length
        decoded += int(stop - start) * chunk_size
        touched.append(used[start:stop])
    distinct = len(np.unique(np.concatenate(touched))) if touched else 0
    return {
        "requests": len(requests),
        "bytes_asked": asked,
        "bytes_decoded": decoded,
        "amplification": round(decoded / asked, 4) if asked else None,
        "amplification_cached": round(distinct * chunk_size / asked, 4) if asked else None,
    }
