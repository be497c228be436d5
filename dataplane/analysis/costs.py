"""What a profile (chunk size and codec) costs beside the chunks themselves: index, manifests, reading."""

from __future__ import annotations

from dataplane.limits import KIB, PACK_SIZE_MAX

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
