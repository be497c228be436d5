"""The survey beside extents executed one by one in Python."""

from __future__ import annotations

import os
import threading
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.plan import Plan
from dataplane.engine.scan import ChunkState
from dataplane.engine.survey import Survey, note_window
from dataplane.engine.window import LoadFailure, Window
from dataplane.extent import Extent, ExtentKind, pack_batch
from dataplane.limits import DECODED_SIZE_MAX
from tests.native.disks import Run, opened, runs, sample
from tests.oracles.disks import Chunk, execute
from tests.oracles.fold import short_digest


def value_of(chunk: Chunk) -> int:
    if chunk.state == ChunkState.DATA:
        assert chunk.plain is not None
        return short_digest(chunk.plain)
    return int(chunk.state == ChunkState.ZERO)


def rows_of(log: array[int], columns: int) -> memoryview:
    return memoryview(log).cast("B").cast("Q", (len(log) // columns, columns))


@given(chosen=runs(3000), start=st.integers(0, 2), window_bits=st.integers(6, 12), chunk_bits=st.integers(4, 12),
       threads=st.integers(1, 3), skipped=st.integers(0, 2))  # fmt: skip
def test_survey_matches_oracle(
    chosen: list[Run], start: int, window_bits: int, chunk_bits: int, threads: int, skipped: int
) -> None:
    window_size, chunk_size = 1 << window_bits, 1 << min(window_bits, chunk_bits)
    made = sample(chosen, start * window_size)
    plan = made.plan(window_size)
    first = min(skipped, plan.window_count)
    columns = window_size // chunk_size
    count = plan.window_count - first
    if count == 0:
        return
    log = array("Q", [77]) * (count * columns)
    with opened(made.readers) as fds:
        work = Survey(plan, fds, rows_of(log, columns), first)
        windows = [Window(window_size, chunk_size) for _ in range(threads)]
        crew = [threading.Thread(target=work.work, args=(window,)) for window in windows]
        for member in crew:
            member.start()
        for member in crew:
            member.join()
    disk = execute(made.extents, made.readers, window_size=window_size, chunk_size=chunk_size, key=None)
    expected = []
    for index in range(first, plan.window_count):
        offset, length = plan.window(index)
        row = [value_of(chunk) for chunk in disk.between(offset, offset + length)]
        expected += row + [0] * (columns - len(row))
    assert log.tolist() == expected
    assert work.windows_done == count


def test_note_window_writes_what_a_survey_does() -> None:
    made = sample([Run(ExtentKind.DATA, 4096), Run(ExtentKind.HOLE, 4096), Run(ExtentKind.DATA, 100, fill="zeros")])
    plan = made.plan(1 << 14)
    window = Window(1 << 14, 4096)
    log, row = array("Q", bytes(32)), array("Q", [9] * 4)
    with opened(made.readers) as fds:
        Survey(plan, fds, rows_of(log, 4), 0).work(Window(1 << 14, 4096))
        window.load(plan, 0, array("i", fds))
    note_window(window, row)
    assert row == log
    assert row[1:].tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="does not fit a row of 5"):
        note_window(window, array("Q", bytes(40)))


def test_failure_is_raised_and_stops() -> None:
    plan = Plan(pack_batch([Extent(0, 8192, ExtentKind.DATA, 0, 0, 0, 8192)]), 4096, DECODED_SIZE_MAX)
    with opened([b"short"]) as fds:
        work = Survey(plan, fds, rows_of(array("Q", bytes(16)), 1), 0)
        with pytest.raises(LoadFailure):
            work.work(Window(4096, 4096))
        assert work.windows_done == 0
        work.work(Window(4096, 4096))  # the others return at once
        assert work.windows_done == 0


def test_arguments_that_do_not_fit_are_refused() -> None:
    plan = Plan(pack_batch([Extent(0, 8192, ExtentKind.DATA, 0, 0, 0, 8192)]), 4096, DECODED_SIZE_MAX)
    fd = os.open("/dev/zero", os.O_RDONLY)
    try:
        two = rows_of(array("Q", bytes(16)), 1)
        for fds, log, first in (([], two, 0), ([-1], two, 0), ([fd], two, 1), ([fd], two, -1)):
            with pytest.raises(ValueError, match=r"descriptor|do not fit"):
                Survey(plan, fds, log, first)
        with pytest.raises(ValueError, match="does not fit a row"):
            Survey(plan, [fd], two, 0).work(Window(4096, 1024))
    finally:
        os.close(fd)
