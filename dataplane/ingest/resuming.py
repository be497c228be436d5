"""Resuming: what a checkpoint says is done, counted again from its manifest so that no total depends on the past."""

from __future__ import annotations

from dataplane.engine.scan import ChunkState
from dataplane.errors import Corrupt
from dataplane.extent import WINDOW_SIZE
from dataplane.ingest.done import Done
from dataplane.limits import PAGE_CHUNKS
from dataplane.store.checkpoints import Checkpoint
from dataplane.store.manifest import data_states
from dataplane.store.runs import Index
from dataplane.store.store import Store


def done_so_far(store: Store, checkpoint: Checkpoint, virtual_size: int) -> Done:
    """Read a checkpoint's manifest and return what it says is done of a disk of `virtual_size` bytes.

    Raises Corrupt when its manifest cannot be read, a chunk is lost, or it is not of such a disk.
    """
    index = store.index()
    root = store.read_root(index, checkpoint.root, checkpoint.domain)
    if (root.virtual_size, root.chunk_size, root.domain) != (virtual_size, store.chunk_size, checkpoint.domain):
        raise Corrupt(f"checkpoint {checkpoint.root.hex()} is not of this disk")
    done = Done(position=checkpoint.position)
    page_ids = dict(root.pages)
    span = store.chunk_size * PAGE_CHUNKS
    for number, page in store.read_pages(index, root):
        _count(done, index, number * span, page, store.chunk_size, virtual_size)
        if (number + 1) * span > checkpoint.position:
            done.open_page = number, page
        else:
            done.pages[number] = page_ids[number]
    return done


def _count(done: Done, index: Index, offset: int, page: bytes, chunk_size: int, virtual_size: int) -> None:
    """Add the page whose first chunk lies at `offset` of the disk to the totals."""
    states = data_states(page)
    per_window = WINDOW_SIZE // chunk_size
    for first in range(0, len(states), per_window):
        at = offset + first * chunk_size
        chunks = states.count(ChunkState.DATA, first, first + per_window)
        last = first + (virtual_size - at - 1) // chunk_size  # of the disk
        beyond = (last + 1 - first) * chunk_size - (virtual_size - at)
        ends_in_data = first <= last < first + per_window and states[last] == ChunkState.DATA
        done.totals.add_window(
            data_size=chunks * chunk_size - (beyond if ends_in_data else 0),
            chunks=chunks,
            distinct_chunks=0,
            storage_size=0,
        )
    fresh = done.table.claim(page, states)
    found, stored_bytes = index.mark_stored(memoryview(page), memoryview(states)) if fresh else (0, 0)
    if found != fresh:
        raise Corrupt(f"a chunk of the manifest page at {offset} is in no run of the store")
    done.totals.add_window(data_size=0, chunks=0, distinct_chunks=fresh, storage_size=stored_bytes)
