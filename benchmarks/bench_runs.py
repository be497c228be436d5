"""Run files: building and looking up, beside a dict. Sizes are those of the ids; a chunk of 64 KiB has one."""

from __future__ import annotations

import heapq
import os
from array import array

import pytest

from benchmarks.beside import Beside
from dataplane.engine.counts import count_chunks, sort_distinct
from dataplane.engine.run_builder import RunBuilder, build_filter
from dataplane.engine.run_merge import RunMerge
from dataplane.engine.runs import Run, RunSet
from dataplane.engine.scan import ChunkState
from dataplane.store import format as fmt
from dataplane.store.runs import open_run

COUNT = 400_000
BATCH = 64  # ids in a window of 4 MiB


def built(ids: bytes) -> bytes:
    """Return a whole run file."""
    builder = RunBuilder()
    lengths = array("I", [4096]) * COUNT
    builder.add(0, 32, ids, lengths, lengths)
    entries = builder.finish()
    layout = fmt.RunLayout.plan(1, COUNT)
    return fmt.build_run(layout, [bytes(32)], bytes(build_filter(entries, layout.filter_blocks)), entries)


@pytest.fixture(scope="module")
def ids() -> bytes:
    return os.urandom(32 * COUNT)


@pytest.fixture(scope="module")
def known(ids: bytes) -> dict[bytes, int]:
    return {ids[at : at + 32]: at for at in range(0, len(ids), 32)}


@pytest.fixture(scope="module")
def runs(ids: bytes) -> RunSet:
    data = memoryview(built(ids))
    return RunSet([open_run(data, fmt.parse_run(data, "the run")[0], bytes(1))])


def look_up(runs: RunSet, asked: memoryview) -> None:
    for at in range(0, len(asked), 32 * BATCH):
        runs.mark_stored(asked[at : at + 32 * BATCH], bytearray([ChunkState.NEW]) * BATCH)


def look_up_dict(known: dict[bytes, int], asked: memoryview) -> None:
    for at in range(0, len(asked), 32):
        known.get(bytes(asked[at : at + 32]))


def test_runs_build(beside: Beside, ids: bytes) -> None:
    def plain() -> list[bytes]:
        return sorted(ids[at : at + 32] for at in range(0, len(ids), 32))

    beside(lambda: built(ids), plain, named="sorted() of the ids", size=len(ids), rounds=5)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "strangers"])
def test_runs_look_up(beside: Beside, runs: RunSet, known: dict[bytes, int], ids: bytes, stored: bool) -> None:
    asked = memoryview(ids if stored else os.urandom(len(ids)))
    beside(
        lambda: look_up(runs, asked), lambda: look_up_dict(known, asked),
        named="a dict", size=len(asked), rounds=5,
    )  # fmt: skip


PARTS = 4


def opened(ids: bytes) -> Run:
    """Return a run of ids, opened."""
    builder = RunBuilder()
    lengths = array("I", [4096]) * (len(ids) // 32)
    builder.add(0, 32, ids, lengths, lengths)
    entries = builder.finish()
    layout = fmt.RunLayout.plan(1, len(lengths))
    data = memoryview(fmt.build_run(layout, [bytes(32)], bytes(build_filter(entries, layout.filter_blocks)), entries))
    return open_run(data, fmt.parse_run(data, "the run")[0], bytes(1))


def test_runs_merge(beside: Beside, ids: bytes) -> None:
    """Four runs into one; the baseline merges their ids alone."""
    size = len(ids) // PARTS
    parts = [ids[at : at + size] for at in range(0, len(ids), size)]
    runs = [opened(part) for part in parts]
    lists = [sorted(part[at : at + 32] for at in range(0, size, 32)) for part in parts]

    def merge() -> None:
        merging = RunMerge(runs, [array("I", [number]) for number in range(PARTS)])
        while merging.take(65_536):
            pass

    beside(merge, lambda: sum(1 for _ in heapq.merge(*lists)), named="heapq.merge of the ids", size=len(ids), rounds=5)


def test_counts_count(beside: Beside, ids: bytes) -> None:
    """Who uses what, looked up for chunks that the index knows and nobody uses yet; the baseline is a dict of ids."""
    index = [opened(ids)]

    def count() -> None:
        ordered = bytearray(ids)
        view = memoryview(ordered)[: 32 * sort_distinct(ordered)]
        for at in range(0, len(view), 32 * 4096):
            count_chunks(view[at : at + 32 * 4096], [], index, 1, False)

    def count_dict() -> None:
        users: dict[bytes, int] = {}
        for at in range(0, len(ids), 32):
            id = ids[at : at + 32]
            users[id] = users.get(id, 0) + 1

    beside(count, count_dict, named="a dict", size=len(ids), rounds=5)
