"""Writing run files, and count files, which have the same shape, without holding them in memory.

The filter (two bytes an entry) is the only thing that is held; entries pass through in pieces.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from dataplane.engine.run_builder import add_to_filter
from dataplane.store import format as fmt
from dataplane.store.layout import naming


def write_entries(
    folder: Path,
    packs: Sequence[bytes],
    entry_count: int,
    pieces: Iterable[bytes],
    *,
    magic: bytes = fmt.RUN_MAGIC,
    suffix: str = "run",
) -> tuple[bytes, Path, int]:
    """Write sorted entries, given in `pieces` that hold `entry_count` in all, as one file into `folder`, durably.

    Returns the file's name, its path, and the entries. Raises NoSpace or IoFailed and leaves nothing; ValueError when
    the pieces hold another number of entries.
    """
    layout = fmt.RunLayout.plan(len(packs), entry_count)
    path = folder / f"{os.urandom(8).hex()}.partial"
    with naming(path, "writing"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        try:
            name = fill(fd, layout, packs, pieces, magic)
            os.fsync(fd)  # one that fails says that nothing of the file can be relied on: it goes
            path.rename(folder / f"{name.hex()}.{suffix}")
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
    return name, folder / f"{name.hex()}.{suffix}", entry_count


def fill(fd: int, layout: fmt.RunLayout, packs: Sequence[bytes], pieces: Iterable[bytes], magic: bytes) -> bytes:
    """Write a whole run into an empty file and return its name."""
    filter_blocks = bytearray(fmt.FILTER_BLOCK_SIZE * layout.filter_blocks)
    at = layout.entries_offset
    for piece in pieces:
        add_to_filter(filter_blocks, piece)
        write_all(fd, piece, at)
        at += len(piece)
    if at != layout.covered:
        raise ValueError(f"the entries end at {at}, not at {layout.covered}")
    write_all(fd, bytes(layout.sums_offset - layout.covered), layout.covered)
    write_all(fd, filter_blocks, layout.filter_offset)
    write_all(fd, fmt.run_head(layout, packs, magic), 0)
    with mmap.mmap(fd, layout.sums_offset, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as data:
        write_all(fd, fmt.run_tail(layout, data[: layout.covered]), layout.sums_offset)
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as data:
        return fmt.run_name(data)


def write_all(fd: int, data: bytes | bytearray, offset: int) -> None:
    """Write all of `data` at `offset`; raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
