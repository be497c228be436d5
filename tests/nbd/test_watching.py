"""Read-ahead: for those who read in order and wait for each answer, and for nobody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from dataplane.disks.disk import Span
from dataplane.nbd.watching import AHEAD_SIZE, SEQUENTIAL_SIZE, STREAMS_MAX, WatchedDevice
from tests.disks import KIB, MIB

STEP = 128 * KIB


class Recorder:
    """A device of zeros that notes what is warmed, and can be made to wait."""

    size = 64 * MIB
    read_only = True

    def __init__(self) -> None:
        self.warmed: list[tuple[int, int]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.begun = 0

    def read_into(self, offset: int, view: memoryview) -> None:
        self.begun += 1
        assert self.may_go_on.wait(60)

    def read_cached(self, offset: int, view: memoryview) -> bool:
        return True

    def warm(self, offset: int, length: int) -> None:
        self.warmed.append((offset, length))

    def extents(self, offset: int, length: int) -> Iterator[Span]:
        yield Span(length, hole=False, zero=False)

    def write(self, offset: int, data: bytes) -> None: ...
    def write_zeroes(self, offset: int, length: int) -> None: ...
    def trim(self, offset: int, length: int) -> None: ...
    def flush(self) -> None: ...


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def watched(recorder: Recorder) -> Iterator[WatchedDevice]:
    made = WatchedDevice(recorder)
    yield made
    made.close()


def warmed_through(recorder: Recorder, watched: WatchedDevice) -> list[tuple[int, int]]:
    """Return what was warmed, once all that was asked for is done."""
    watched._executor.shutdown()
    return sorted(recorder.warmed)


def read(watched: WatchedDevice, offset: int, length: int = STEP) -> None:
    watched.read_into(offset, memoryview(bytearray(length)))


def until(look: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def test_who_reads_in_order_is_read_ahead_of_once(recorder: Recorder, watched: WatchedDevice) -> None:
    last = 4 * SEQUENTIAL_SIZE
    for offset in range(0, last, STEP):
        read(watched, offset)
    found = warmed_through(recorder, watched)
    assert found[0][0] == SEQUENTIAL_SIZE
    assert all(offset + length == after for (offset, length), (after, _) in pairwise(found))
    assert last + AHEAD_SIZE <= sum(found[-1]) < last + AHEAD_SIZE + 2 * MIB


def test_reads_from_memory_count_too_and_the_end_is_respected(recorder: Recorder, watched: WatchedDevice) -> None:
    start = recorder.size - 3 * MIB
    for offset in range(start, recorder.size - MIB, 4 * KIB):
        assert watched.read_cached(offset, memoryview(bytearray(4 * KIB)))
    found = warmed_through(recorder, watched)
    assert found[0][0] == start + SEQUENTIAL_SIZE
    assert sum(found[-1]) == recorder.size


def test_reads_here_and_there_warm_nothing(recorder: Recorder, watched: WatchedDevice) -> None:
    for number in range(200):
        read(watched, number * 7919 * KIB % (60 * MIB), 4 * KIB)
    assert warmed_through(recorder, watched) == []


def test_who_asks_before_the_answer_is_not_read_ahead_of(recorder: Recorder, watched: WatchedDevice) -> None:
    recorder.may_go_on.clear()
    readers = []
    for number in range(4):
        readers.append(threading.Thread(target=read, args=(watched, number * STEP)))
        readers[-1].start()
        until(lambda wanted=number + 1: recorder.begun == wanted)  # type: ignore[misc]
    recorder.may_go_on.set()
    for reader in readers:
        reader.join()
    for number in range(4, AHEAD_SIZE // STEP):  # an answer may be quick now and then
        read(watched, number * STEP)
    assert recorder.warmed == []
    for number in range(AHEAD_SIZE // STEP, AHEAD_SIZE // STEP + 8):
        read(watched, number * STEP)
    assert warmed_through(recorder, watched) != []


def test_many_streams_are_followed_and_the_oldest_is_forgotten(recorder: Recorder, watched: WatchedDevice) -> None:
    starts = [number * MIB for number in range(STREAMS_MAX + 1)]
    for step in range(SEQUENTIAL_SIZE // STEP - 1):
        for start in starts[1:]:
            read(watched, start + step * STEP)
    read(watched, starts[0])  # one too many
    for start in [*starts[2:], starts[1]]:
        read(watched, start + SEQUENTIAL_SIZE - STEP)
    found = {offset for offset, _ in warmed_through(recorder, watched)}
    assert starts[1] + SEQUENTIAL_SIZE not in found
    assert {start + SEQUENTIAL_SIZE for start in starts[2:]} <= found
