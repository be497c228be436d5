"""Where the pages of an SQLite database hold nothing, by their own headers (https://sqlite.org/fileformat.html)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEADER_SIZES = {2: 12, 5: 12, 10: 8, 13: 8}
"""By the type of a B-tree page, its first byte."""


def free_ranges(database: bytes) -> Iterator[range]:
    """Yield, for each page but the first, the bytes between the list of its cells and the cells themselves.

    The first page has the database's own header too, and says where everything else lies.
    """
    (page_size,) = struct.unpack_from(">H", database, 16)
    for page in range(page_size, len(database), page_size):
        kind, _, cells, start = struct.unpack_from(">BHHH", database, page)
        if kind in HEADER_SIZES:
            yield range(page + HEADER_SIZES[kind] + 2 * cells, page + (start or 65536))
