"""Windows that only scan read files where they lie in the page cache, and find what copying windows find."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.engine.pieces import PieceRows
from dataplane.engine.plan import Plan
from dataplane.engine.window import LoadFailure, Window
from dataplane.extent import Extent, ExtentKind, pack_batch
from dataplane.limits import DECODED_SIZE_MAX, KIB, MIB

KEY = bytes(range(32))
WINDOW = MIB
ROOT = Path(__file__).parents[2]


def content(seed: int, size: int) -> bytes:
    """Return bytes of which some stretches are zero."""
    chance = random.Random(seed)
    made = bytearray()
    while len(made) < size:
        length = chance.randrange(1, 300 * KIB)
        made += bytes(length) if chance.random() < 0.3 else chance.randbytes(length)
    return bytes(made[:size])


def plan_of(length: int, source_offset: int) -> Plan:
    """Return a plan for a disk that lies in one piece in a file, at `source_offset`."""
    row = Extent(0, length, ExtentKind.DATA, 0, 0, source_offset, length)
    return Plan(pack_batch([row]), WINDOW, DECODED_SIZE_MAX)


@given(
    seed=st.integers(0, 1 << 32),
    length=st.integers(2 * MIB, 6 * MIB),
    source_offset=st.one_of(st.just(0), st.integers(0, 70_000)),
    chunk_bits=st.integers(12, 20),
    key=st.sampled_from([None, KEY]),
)
def test_mapped_is_copied(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    length: int,
    source_offset: int,
    chunk_bits: int,
    key: bytes | None,
) -> None:
    path = tmp_path_factory.getbasetemp() / "mapped"
    path.write_bytes(content(seed, source_offset + length))
    plan = plan_of(length, source_offset)
    scanning, copying = Window(WINDOW, 1 << chunk_bits, key, scan_only=True), Window(WINDOW, 1 << chunk_bits, key)
    with open(path, "rb") as file:
        for index in range(plan.window_count):
            found = [window.load(plan, index, array("i", [file.fileno()])) for window in (scanning, copying)]
            assert found[0] == found[1]
            assert bytes(scanning.digests) == bytes(copying.digests)
            assert bytes(scanning.states) == bytes(copying.states)
            for name in ("read_bytes", "data_bytes", "zero_chunks", "data_chunks", "length"):
                assert getattr(scanning, name) == getattr(copying, name)
    assert scanning.mapped_bytes >= WINDOW  # every other range, as long as that is on trial
    assert copying.mapped_bytes == 0


def test_windows_that_only_scan_keep_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(1, 4 * MIB))
    plan, window = plan_of(4 * MIB, 0), Window(WINDOW, 4 * KIB, scan_only=True)
    with open(path, "rb") as file:
        for index in range(4):
            before = window.mapped_bytes
            window.load(plan, index, array("i", [file.fileno()]))
            assert window.in_place == (window.mapped_bytes > before)
            if not window.in_place:
                assert bytes(window.plain) == path.read_bytes()[index * WINDOW : (index + 1) * WINDOW]
                continue
            with pytest.raises(ValueError, match="not kept"):
                _ = window.plain
        assert window.mapped_bytes > 0
        window.scan_only = False
        window.load(plan, 3, array("i", [file.fileno()]))
        assert bytes(window.plain) == path.read_bytes()[3 * WINDOW :]


def test_what_needs_the_bytes_refuses_windows_that_only_scan() -> None:
    window = Window(4 * MIB, 4 * KIB, scan_only=True)
    with pytest.raises(ValueError, match="only scans"):
        PieceRows(1).note_window(0, window)
    with pytest.raises(ValueError, match="only scans"):
        window.load_into(plan_of(4 * KIB, 0), array("i", [0]), bytearray(4 * KIB))


def test_a_descriptor_that_stands_for_another_file_is_another_file(tmp_path: Path) -> None:
    plan, scanning, copying = plan_of(4 * MIB, 0), Window(WINDOW, 4 * KIB, scan_only=True), Window(WINDOW, 4 * KIB)
    numbers = set()
    for seed in range(3):
        path = tmp_path / str(seed)
        path.write_bytes(content(seed, 4 * MIB))
        with open(path, "rb") as file:
            numbers.add(file.fileno())
            before = scanning.mapped_bytes
            for index in range(4):
                for window in (scanning, copying):
                    window.load(plan, index, array("i", [file.fileno()]))
                assert bytes(scanning.digests) == bytes(copying.digests)
            assert scanning.mapped_bytes > before
    assert len(numbers) == 1


def test_what_is_not_in_the_cache_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "cold"
    path.write_bytes(content(1, 8 * MIB))
    plan, window = plan_of(8 * MIB, 0), Window(WINDOW, 64 * KIB, scan_only=True)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for index in range(8):
            window.load(plan, index, array("i", [file.fileno()]))
    assert window.read_bytes == MIB
    assert window.mapped_bytes in (0, MIB)  # reading ahead may be as far as the second window when that is looked at


def test_a_file_that_ends_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(content(1, 3 * MIB + 5))
    plan, window = plan_of(4 * MIB, 0), Window(WINDOW, 64 * KIB, scan_only=True)
    with open(path, "rb") as file:
        for index in range(3):
            window.load(plan, index, array("i", [file.fileno()]))
        with pytest.raises(LoadFailure) as failed:
            window.load(plan, 3, array("i", [file.fileno()]))
    assert failed.value.kind == "cut"


CUTTING = """
import os, sys, threading, time
from array import array
from dataplane.engine.window import LoadFailure, Window
from tests.native.test_mapped_windows import MIB, WINDOW, KIB, content, plan_of
path, seconds = sys.argv[1], float(sys.argv[2])
whole = content(1, 4 * MIB)
done = threading.Event()
def cut():
    while not done.is_set():
        os.truncate(path, 0)
        with open(path, "r+b") as file:
            file.write(whole)
plan, cuts, mapped = plan_of(4 * MIB, 0), 0, 0
thread = threading.Thread(target=cut)
with open(path, "wb") as file:
    file.write(whole)
thread.start()
until = time.monotonic() + seconds
with open(path, "rb") as file:
    while time.monotonic() < until:
        window = Window(WINDOW, 4 * KIB, scan_only=True)
        for index in range(4):
            try:
                window.load(plan, index, array("i", [file.fileno()]))
            except LoadFailure as failure:
                assert failure.kind == "cut", failure
                cuts += 1
        mapped += window.mapped_bytes
done.set()
thread.join()
print(cuts, mapped)
"""


def test_a_file_that_is_cut_while_it_is_mapped_ends_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CUTTING, str(tmp_path / "cut"), "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    cuts, mapped = map(int, done.stdout.split())
    assert cuts > 0
    assert mapped > 0


def test_somebody_else_who_takes_the_signal_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(1, 4 * MIB))
    program = f"""
import faulthandler, sys
from array import array
from tests.native.test_mapped_windows import MIB, WINDOW, plan_of
from dataplane.engine.window import Window
first, second = Window(WINDOW, 65536, scan_only=True), Window(WINDOW, 65536, scan_only=True)
with open({str(path)!r}, "rb") as file:
    for window in (first, second):
        for index in range(4):
            window.load(plan_of(4 * MIB, 0), index, array("i", [file.fileno()]))
        faulthandler.enable()
print(first.mapped_bytes, second.mapped_bytes)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    mapped = [int(word) for word in done.stdout.split()]
    assert mapped[0] > 0
    assert mapped[1] == 0
