"""The map of a layer: which blocks it holds, which it lets read as zeros, and which it leaves to the base."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

BLOCK_SIZE = 4096
"""Bytes in a block, the unit in which layers know what was written."""

PAGE_BLOCKS = 4096
"""Blocks in one page of a map: 16 MiB of the disk."""


class BlockState(IntEnum):
    """What a layer says of a block; values are part of the format of change logs."""

    BELOW = 0  # whatever lies below the layer
    WRITTEN = 1  # the layer's data file has it
    ZERO = 2  # reads as zeros


class Run(NamedTuple):
    """Neighbouring blocks of one state; `length` counts blocks."""

    first: int
    length: int
    state: BlockState


_STATES = tuple(BlockState)
_UNIFORM = tuple(bytes([state]) * PAGE_BLOCKS for state in BlockState)
_RUNS = re.compile(b"\\x00+|\\x01+|\\x02+")


class BlockMap:
    """States of blocks, a byte each, in pages that exist only where something was written or zeroed.

    Pages of one state share their bytes: a disk that is trimmed or filled as a whole takes no memory for it. Not safe
    for concurrent changes; ``runs`` copies what it looks at before it yields.
    """

    def __init__(self) -> None:
        self._pages: dict[int, bytes | bytearray] = {}

    def set(self, first: int, count: int, state: BlockState) -> None:
        """Give `count` blocks from `first` one state."""
        end = first + count
        while first < end:
            number, start = divmod(first, PAGE_BLOCKS)
            stop = min(PAGE_BLOCKS, start + end - first)
            if stop - start == PAGE_BLOCKS:
                self.set_page(number, _UNIFORM[state])
            else:
                page = self._pages.get(number, _UNIFORM[BlockState.BELOW])
                if isinstance(page, bytes):
                    page = self._pages[number] = bytearray(page)
                page[start:stop] = _UNIFORM[state][: stop - start]
            first += stop - start

    def set_page(self, number: int, page: bytes) -> None:
        """Replace a page of PAGE_BLOCKS states."""
        uniform = _UNIFORM[page[0]]
        if page != uniform:
            self._pages[number] = bytearray(page)
        elif page[0] == BlockState.BELOW:
            self._pages.pop(number, None)
        else:
            self._pages[number] = uniform

    def add(self, other: BlockMap) -> None:
        """Give every block that is not BELOW in `other` the state it has there."""
        for number, page in other.pages():
            for match in _RUNS.finditer(page):
                if match[0][0] != BlockState.BELOW:
                    first = number * PAGE_BLOCKS + match.start()
                    self.set(first, match.end() - match.start(), _STATES[match[0][0]])

    def state(self, block: int) -> BlockState:
        """Return the state of one block."""
        number, place = divmod(block, PAGE_BLOCKS)
        page = self._pages.get(number)
        return BlockState.BELOW if page is None else _STATES[page[place]]

    def runs(self, first: int, count: int) -> list[Run]:
        """Return the runs that make up `count` blocks from `first`, in order; neighbours differ in state."""
        end = first + count
        found: list[Run] = []
        while first < end:
            number, start = divmod(first, PAGE_BLOCKS)
            stop = min(PAGE_BLOCKS, start + end - first)
            page = self._pages.get(number)
            if page is None or isinstance(page, bytes):
                _append(found, first, stop - start, BlockState.BELOW if page is None else _STATES[page[0]])
            else:
                for match in _RUNS.finditer(bytes(page[start:stop])):
                    _append(found, first + match.start(), match.end() - match.start(), _STATES[match[0][0]])
            first += stop - start
        return found

    def has_any(self, first: int, count: int) -> bool:
        """Return whether any of `count` blocks from `first` is not BELOW."""
        return any(run.state != BlockState.BELOW for run in self.runs(first, count))

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """Yield (number, states) of the pages in which a block is not BELOW, in order."""
        for number in sorted(self._pages):
            page = bytes(self._pages[number])
            if page != _UNIFORM[BlockState.BELOW]:
                yield number, page

    def count(self, state: BlockState) -> int:
        """Return how many blocks have a state other than BELOW."""
        return sum(page.count(state) for page in list(self._pages.values()))

    def is_empty(self) -> bool:
        """Return whether every block is BELOW."""
        return next(self.pages(), None) is None


def _append(runs: list[Run], first: int, count: int, state: BlockState) -> None:
    if runs and runs[-1].state == state:
        runs[-1] = Run(runs[-1].first, runs[-1].length + count, state)
    else:
        runs.append(Run(first, count, state))
