"""Whom damage hurts: the images whose manifests name what is damaged or lost, and the ranges of their disks."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from dataplane.dataclass import dataclass
from dataplane.engine.scan import ChunkState
from dataplane.errors import Corrupt
from dataplane.limits import PAGE_CHUNKS
from dataplane.store import format as fmt
from dataplane.store.manifest import data_states
from dataplane.store.pins import Pin
from dataplane.store.runs import Index
from dataplane.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class HurtImage:
    """An image that cannot be read whole. `ranges` are (offset, length) of its disk, in bytes, sorted and merged."""

    name: str
    ranges: tuple[tuple[int, int], ...]


def hurt_images(store: Store, index: Index, damaged: Collection[bytes], pins: list[Pin]) -> list[HurtImage]:
    """Return which of `pins` are hurt by damaged chunks (ids of 32 bytes), or by chunks that no pack holds."""
    found = []
    for pin in pins:
        ranges = tuple(merged(hurt_ranges(store, index, damaged, pin)))
        if ranges:
            found.append(HurtImage(name=pin.name, ranges=ranges))
    return found


def hurt_ranges(store: Store, index: Index, damaged: Collection[bytes], pin: Pin) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of what cannot be read of one image, in disk order."""
    try:
        root = store.read_root(index, pin.root, pin.domain)
    except Corrupt:
        yield 0, pin.virtual_size
        return
    key = store.domain_key(pin.domain)
    span = root.chunk_size * PAGE_CHUNKS
    for number, page_id in root.pages:
        offset = number * span
        try:
            page = store.read_chunk(index, page_id, key, "page")
        except Corrupt:
            yield offset, min(span, root.virtual_size - offset)
            continue
        for place in bad_places(index, page, damaged):
            at = offset + place * root.chunk_size
            yield at, min(root.chunk_size, root.virtual_size - at)


def bad_places(index: Index, page: bytes, damaged: Collection[bytes]) -> list[int]:
    """Return which chunks of a manifest page are damaged, or known to no run."""
    states = data_states(page)
    look_up = bytearray(ChunkState.NEW if state == ChunkState.DATA else state for state in states)
    index.mark_stored(memoryview(page), memoryview(look_up))
    lost = [place for place, state in enumerate(look_up) if state == ChunkState.NEW]
    if not damaged:
        return lost
    ids = (page[at : at + fmt.ID_SIZE] for at in range(0, len(page), fmt.ID_SIZE))
    return sorted({*lost, *(place for place, id in enumerate(ids) if id in damaged)})


def merged(ranges: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return sorted ranges with neighbours joined."""
    joined: list[tuple[int, int]] = []
    for offset, length in ranges:
        if joined and joined[-1][0] + joined[-1][1] == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((offset, length))
    return joined
