"""The sweep beside extents executed one by one in Python."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.codec import Codec
from dataplane.engine.plan import Plan
from dataplane.engine.scan import ChunkState
from dataplane.engine.sweep import Sweep
from dataplane.engine.table import DigestTable
from dataplane.engine.window import LoadFailure, Window
from dataplane.extent import Extent, ExtentKind, pack_batch
from dataplane.limits import DECODED_SIZE_MAX, MIB
from tests.native.disks import Run, opened, runs, sample
from tests.oracles.disks import execute

KEY = bytes(range(32))
PLENTY = 64 << 30  # bytes of /dev/zero


def run_threads(work: Sweep, windows: Sequence[Window]) -> list[Exception]:
    """Let each window sweep in a thread of its own; return what they raised."""
    failures: list[Exception] = []

    def sweep(window: Window) -> None:
        try:
            work.work(window)
        except Exception as error:
            failures.append(error)

    crew = [threading.Thread(target=sweep, args=(window,)) for window in windows]
    for member in crew:
        member.start()
    for member in crew:
        member.join()
    return failures


@given(
    chosen=runs(3000),
    start=st.integers(0, 2),
    window_bits=st.integers(6, 12),
    chunk_bits=st.integers(4, 12),
    key=st.sampled_from([None, KEY]),
    threads=st.integers(1, 4),
    claims=st.integers(0, 5),
)
def test_sweep_matches_oracle(
    chosen: list[Run], start: int, window_bits: int, chunk_bits: int, key: bytes | None, threads: int, claims: int
) -> None:
    window_size, chunk_size = 1 << window_bits, 1 << min(window_bits, chunk_bits)
    made = sample(chosen, start * window_size)
    disk = execute(made.extents, made.readers, window_size=window_size, chunk_size=chunk_size, key=key)
    table = DigestTable(16 if key is None else 32)
    with opened(made.readers) as fds:
        work = Sweep(made.plan(window_size), table, fds, claims * window_size)
        assert run_threads(work, [Window(window_size, chunk_size, key) for _ in range(threads)]) == []
    assert work.data_chunks == disk.count(ChunkState.DATA)
    assert work.zero_chunks == disk.count(ChunkState.ZERO)
    assert work.data_bytes == disk.data_bytes()
    assert work.distinct_chunks == len(table) == len(disk.digests())
    assert work.allocated_bytes == disk.allocated_bytes()
    known = b"".join(sorted(disk.digests()))
    assert table.mark_known(known, bytearray([ChunkState.DATA]) * len(disk.digests())) == len(disk.digests())


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_sweep_counts_the_same_with_any_number_of_threads(threads: int) -> None:
    """Chunks that repeat, over many claims: whoever meets one first, it counts once."""
    blocks = [random.Random(number).randbytes(4096) for number in range(50)]
    content = b"".join(blocks[number * 7 % 50] for number in range(5000))
    plan = Plan(pack_batch([Extent(0, len(content), ExtentKind.DATA, 0, 0, 0, len(content))]), 8192, DECODED_SIZE_MAX)
    table = DigestTable(16)
    with opened([content]) as fds:
        work = Sweep(plan, table, fds, 16384)
        assert run_threads(work, [Window(8192, 4096) for _ in range(threads)]) == []
    assert (work.distinct_chunks, len(table)) == (50, 50)
    assert (work.data_chunks, work.data_bytes, work.read_bytes) == (5000, len(content), len(content))


def test_sweep_allocation_is_counted_in_spans_of_the_disk() -> None:
    rows = [
        Extent(4 * MIB, 6 * MIB, ExtentKind.HOLE),
        Extent(10 * MIB, 4096, ExtentKind.DATA, 0, 0, 0, 4096),
        Extent(10 * MIB + 4096, 2 * MIB - 4096, ExtentKind.HOLE),
        Extent(12 * MIB, 4096, ExtentKind.DATA, 0, 0, 4096, 4096),
        Extent(12 * MIB + 4096, 4096, ExtentKind.DATA, 0, 0, 8192, 4096),
    ]
    with opened([b"\1" * 8192 + bytes(4096)]) as fds:
        work = Sweep(Plan(pack_batch(rows), 65536, DECODED_SIZE_MAX), DigestTable(16), fds, MIB)
        work.work(Window(65536, 4096))
    assert (work.allocated_bytes, work.data_chunks, work.zero_chunks) == (8 * MIB, 2, 1)


def test_known_digests_are_not_distinct() -> None:
    made = sample([Run(ExtentKind.DATA, 4096), Run(ExtentKind.DATA, 4096)])
    table = DigestTable(16)
    with opened(made.readers) as fds:
        for distinct in (2, 0):
            work = Sweep(made.plan(4096), table, fds, 4096)
            work.work(Window(4096, 4096))
            assert (work.distinct_chunks, work.data_chunks) == (distinct, 2)


def test_stopped_sweep_returns_without_error() -> None:
    made = sample([Run(ExtentKind.DATA, 65536)])
    with opened(made.readers) as fds:
        work = Sweep(made.plan(4096), DigestTable(16), fds, 4096)
        work.stop()
        work.work(Window(4096, 4096))
    assert work.data_chunks == 0


def test_stop_ends_a_running_sweep() -> None:
    """So much from a device takes seconds; stopping takes a window."""
    size = PLENTY
    plan = Plan(pack_batch([Extent(0, size, ExtentKind.DATA, 0, 0, 0, size)]), 1 << 18, DECODED_SIZE_MAX)
    fd = os.open("/dev/zero", os.O_RDONLY)
    try:
        work = Sweep(plan, DigestTable(16), [fd], 4 * MIB)
        timer = threading.Timer(0.1, work.stop)
        timer.start()
        assert run_threads(work, [Window(1 << 18, 65536) for _ in range(2)]) == []
        timer.join()
    finally:
        os.close(fd)
    assert 0 < work.read_bytes < size / 2
    assert work.data_chunks == 0


def test_failure_in_one_thread_stops_the_others() -> None:
    """The first thread fails at its first window; the others leave the rest alone."""
    size = PLENTY
    rows = [
        Extent(0, 4096, ExtentKind.DATA, 0, 1, 0, 4096),
        Extent(4096, size, ExtentKind.DATA, 0, 0, 0, size),
    ]
    fd = os.open("/dev/zero", os.O_RDONLY)
    try:
        with opened([b"too short"]) as fds:
            work = Sweep(Plan(pack_batch(rows), 1 << 18, DECODED_SIZE_MAX), DigestTable(16), [fd, fds[0]], 4 * MIB)
            failures = run_threads(work, [Window(1 << 18, 65536) for _ in range(3)])
    finally:
        os.close(fd)
    assert [type(error) for error in failures] == [LoadFailure]
    assert (failures[0].kind, failures[0].reader, failures[0].offset) == ("cut", 1, 0)  # type: ignore[attr-defined]
    assert work.read_bytes < size / 4


def test_compressed_rows_are_swept_as_they_decode() -> None:
    chosen = [Run(ExtentKind.DATA, 4096, codec, fill="text") for codec in Codec]
    made = sample(chosen)
    with opened(made.readers) as fds:
        work = Sweep(made.plan(4096), DigestTable(32), fds, 0)
        work.work(Window(4096, 4096, KEY))
    assert (work.distinct_chunks, work.data_chunks) == (1, 4)


def test_arguments_that_do_not_fit_are_refused() -> None:
    plan = sample([Run(ExtentKind.DATA, 100, reader=1)]).plan(4096)
    for fds in ([], [0], [0, -1]):
        with pytest.raises(ValueError, match="2 readers"):
            Sweep(plan, DigestTable(16), fds, 4096)
    work = Sweep(plan, DigestTable(16), [0, 0], 4096)
    with pytest.raises(ValueError, match="do not fit a table"):
        work.work(Window(4096, 4096, KEY))
    with pytest.raises(ValueError, match="does not fit a window"):
        work.work(Window(8192, 4096))
    large = sample([Run(ExtentKind.DATA, 100)]).plan(8 * MIB)
    with pytest.raises(ValueError, match="not chunks of"):
        Sweep(large, DigestTable(16), [0], 0).work(Window(8 * MIB, 8 * MIB))


def test_plan_without_data_is_done_at_once() -> None:
    plan = Plan(pack_batch([Extent(0, 1 << 50, ExtentKind.HOLE)]), 4096, DECODED_SIZE_MAX)
    work = Sweep(plan, DigestTable(16), [], 4096)
    work.work(Window(4096, 4096))
    assert (work.read_bytes, work.data_chunks, work.allocated_bytes) == (0, 0, 0)
