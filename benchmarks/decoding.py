"""Decoding and hashing alone: the chunks of an image from memory, without files, look-ups or targets."""

from __future__ import annotations

import itertools
from array import array

from benchmarks.beside import THREADS, on_threads
from dataplane.engine.blockio import read_ranges
from dataplane.engine.plan import Plan
from dataplane.engine.window import Window
from dataplane.extent import WINDOW_SIZE
from dataplane.ingest.feed import descriptors
from dataplane.limits import DECODED_SIZE_MAX
from dataplane.store.store import Store
from dataplane.store.stored_image import StoredImage


class DecodeAlone:
    """Decodes (zstd) and hashes (BLAKE3) every chunk of an image on two threads, a window at a time, from memory.

    `size` is the bytes of the decoded chunks. Each thread uses one window again and again.
    """

    def __init__(self, store: Store, name: str) -> None:
        pin = store.pin(name)
        self._windows: list[tuple[Plan, int, memoryview, bytearray]] = []
        self.size = 0
        with StoredImage(store, pin.root, pin.domain) as image:
            self._rooms = [Window(WINDOW_SIZE, image.root.chunk_size, image.key) for _ in range(THREADS)]
            for batch in image.extents():
                plan = Plan(batch, WINDOW_SIZE, DECODED_SIZE_MAX)
                self.size += plan.data_bytes
                fds = descriptors(image, plan)
                for index in range(plan.window_count):
                    self._windows.append((plan, index, *encoded(plan, index, fds)))

    def __call__(self) -> None:
        """Decode and hash everything once."""
        counter = itertools.count()

        def decode(number: int) -> None:
            window = self._rooms[number]
            while (claim := next(counter)) < len(self._windows):
                plan, index, rows, data = self._windows[claim]
                window.load(plan, index, array("i", [-1]) * (plan.reader_max + 1), rows, data)

        on_threads(decode)


def encoded(plan: Plan, index: int, fds: array[int]) -> tuple[memoryview, bytearray]:
    """Return what a window reads, as ``Window.load`` takes it: rows of where each piece is, and the bytes."""
    wanted = sorted(plan.source_ranges(index))
    merged: list[list[int]] = []
    for reader, offset, length in wanted:
        if merged and merged[-1][0] == reader and merged[-1][1] + merged[-1][2] == offset:
            merged[-1][2] += length
        else:
            merged.append([reader, offset, length])
    data = bytearray(sum(length for _, _, length in merged))
    rows, position = array("q"), 0
    for reader, offset, length in merged:
        read_ranges(fds[reader], memoryview(array("q", (offset, length, position))).cast("B").cast("q", (1, 3)), data)
        rows.extend((reader, offset, length, position))
        position += length
    return memoryview(rows).cast("B").cast("q", (len(merged), 4)), data
