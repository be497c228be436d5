"""The digest table beside a Python set. Sizes are those of the digests; a chunk of 64 KiB has one."""

from __future__ import annotations

import os

import pytest

from benchmarks.beside import Beside, on_threads
from dataplane.engine.scan import ChunkState
from dataplane.engine.table import DigestTable

COUNT = 400_000
BATCH = 64  # digests in a window of 4 MiB


def states_of(count: int) -> bytearray:
    return bytearray([ChunkState.DATA]) * count


def claim_batches(table: DigestTable, digests: memoryview, start: int, stop: int) -> None:
    """Claim as a pipeline does: a window at a time."""
    size = table.key_size
    for at in range(start, stop, BATCH):
        table.claim(digests[at * size : (at + BATCH) * size], states_of(BATCH))


def fill_set(digests: memoryview, key_size: int) -> set[bytes]:
    known: set[bytes] = set()
    for at in range(0, len(digests), key_size):
        known.add(bytes(digests[at : at + key_size]))
    return known


@pytest.mark.parametrize("key_size", [16, 32])
def test_table_claim_new(beside: Beside, key_size: int) -> None:
    digests = memoryview(os.urandom(COUNT * key_size))
    beside(
        lambda: claim_batches(DigestTable(key_size), digests, 0, COUNT),
        lambda: fill_set(digests, key_size),
        named="a Python set", size=len(digests), rounds=5,
    )  # fmt: skip


@pytest.mark.parametrize("key_size", [16, 32])
def test_table_claim_seen(beside: Beside, key_size: int) -> None:
    digests = memoryview(os.urandom(COUNT * key_size))
    table, known = DigestTable(key_size), fill_set(digests, key_size)
    claim_batches(table, digests, 0, COUNT)

    def look_up() -> None:
        for at in range(0, len(digests), key_size):
            bytes(digests[at : at + key_size]) in known  # noqa: B015

    beside(
        lambda: claim_batches(table, digests, 0, COUNT), look_up,
        named="a Python set", size=len(digests), rounds=5,
    )  # fmt: skip


def test_table_claim_two_threads(beside: Beside) -> None:
    digests = memoryview(os.urandom(COUNT * 32))
    half = COUNT // 2 // BATCH * BATCH

    def both() -> None:
        table = DigestTable(32)
        on_threads(lambda number: claim_batches(table, digests, number * half, (number + 1) * half), 2)

    beside(
        both, lambda: claim_batches(DigestTable(32), digests, 0, COUNT),
        named="one thread", size=2 * half * 32, baseline_size=COUNT * 32, rounds=5,
    )  # fmt: skip
