"""Power cuts: what was not synced is gone, and yet every image whose command had returned is whole.

Stores lie on a real ext4 and a real xfs, which are shut down without a flush of their logs: right before a call that
changes the disk, right after one that syncs, or at a moment that chance chooses. Then they are mounted again.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.faults.apart import apart
from tests.faults.cut_disk import CutDisk
from tests.faults.figures import Figures
from tests.faults.forker import Forker, Outcome
from tests.faults.scripts import BEGUN_AGAIN, SCRIPTS, Bench, assert_sound, beginning, states_of
from tests.faults.shim import EVERY, Fault, Kind, Mode

WRITING = [script for script in SCRIPTS if script not in ("export", "verify", "a day")]
RANDOM_CUTS = 100
SLICE = 4
"""In `make test` the power is cut at so many points of two scripts."""


@pytest.fixture(scope="module")
def forker(private_forker: Forker) -> Forker:
    """The process that runs commands; it sees the disks."""
    return private_forker


def run_with(forker: Forker, disk: CutDisk, template: Path, script: str, fault: Fault) -> Outcome:
    """Run a script on a fresh copy of the template's store."""
    disk.fill(beginning(template, script), "store")
    bench = Bench(disk.mount_point, template)
    return forker.run(bench.commands(script), bench.folder, fault, disk.mount_point)


def assert_survived(forker: Forker, disk: CutDisk, template: Path, script: str, outcome: Outcome, folder: Path) -> None:
    """After the machine has come up again the store has every image whose command had returned."""
    disk.restart()
    try:
        # The process outlives the disk here, and touching a mapped file then is a SIGBUS.
        assert outcome.code in (0, 1, 3, 5, -signal.SIGBUS)
        assert len(outcome.errors.splitlines()) <= len(SCRIPTS[script])
        assert "Traceback" not in outcome.errors
        if script in BEGUN_AGAIN:
            again = forker.run(Bench(disk.mount_point, template).commands(script), disk.mount_point)
            assert again.code == 0, again.errors
        states = states_of(script)[outcome.done : outcome.done + 2]
        apart(assert_sound, disk.mount_point / "store", states, template, folder / "check")
    except Exception as error:
        last = outcome.calls[-1] if outcome.calls else "no call"
        raise AssertionError(
            f"{script}, {len(outcome.calls)} calls, {last}: {outcome.code} {outcome.errors}"
        ) from error


def cut_everywhere(
    forker: Forker, disk: CutDisk, template: Path, folder: Path, script: str, fault: Fault, points: int | None = None
) -> int:
    """Break a script at each of its calls, or `points` of them, then cut the power; return how often."""
    total = len(run_with(forker, disk, template, script, Fault(kinds=fault.kinds)).calls)
    step = 1 if points is None else max(1, total // points)
    places = range(1, total + 1, step)
    for at in places:
        planned = Fault(mode=fault.mode, at=at, kinds=fault.kinds, error=fault.error)
        outcome = run_with(forker, disk, template, script, planned)
        assert_survived(forker, disk, template, script, outcome, folder)
    return len(places)


@pytest.mark.parametrize("script", ["import", "gc"])
def test_power_cut_slice(forker: Forker, disk: CutDisk, template: Path, tmp_path: Path, script: str) -> None:
    fault = Fault(mode=Mode.CUT_AFTER, kinds=Kind.SYNC | Kind.RENAME)
    assert cut_everywhere(forker, disk, template, tmp_path, script, fault, SLICE) > 0


def test_disk_forgets_what_was_not_synced(disk: CutDisk) -> None:
    """The judge is judged: what is written without a sync is gone, what is synced stays."""
    (disk.mount_point / "lost").write_bytes(b"x" * 5000)
    kept = disk.mount_point / "kept"
    with open(kept, "wb") as file:
        file.write(b"y" * 5000)
        os.fsync(file.fileno())
    (disk.mount_point / "late").write_bytes(b"z" * 5000)
    disk.restart()
    assert kept.read_bytes() == b"y" * 5000
    assert not (disk.mount_point / "late").exists()


@pytest.mark.slow
@pytest.mark.parametrize("script", WRITING)
def test_power_cut_at_every_call(
    forker: Forker, disk: CutDisk, template: Path, tmp_path: Path, script: str, figures: Figures
) -> None:
    before = cut_everywhere(forker, disk, template, tmp_path, script, Fault(mode=Mode.CUT, kinds=EVERY))
    after = cut_everywhere(forker, disk, template, tmp_path, script, Fault(mode=Mode.CUT_AFTER, kinds=Kind.SYNC))
    figures.add("power cut before a call", f"{disk.mount_point.name} {script}", before)
    figures.add("power cut after a sync", f"{disk.mount_point.name} {script}", after)


@pytest.mark.slow
@pytest.mark.parametrize("script", WRITING)
def test_failed_fsync_is_never_taken_for_success(
    forker: Forker, disk: CutDisk, template: Path, tmp_path: Path, script: str, figures: Figures
) -> None:
    """Each fsync fails once, without having done anything; the power is cut when the command has ended."""
    fault = Fault(mode=Mode.FAIL, kinds=Kind.SYNC, error=errno.EIO)
    figures.add(
        "fsync failed, then power cut",
        f"{disk.mount_point.name} {script}",
        cut_everywhere(forker, disk, template, tmp_path, script, fault),
    )


@pytest.mark.slow
def test_power_cut_at_random_moments(
    forker: Forker, disk: CutDisk, template: Path, tmp_path: Path, figures: Figures
) -> None:
    began, cuts = time.monotonic(), 0
    assert run_with(forker, disk, template, "a day", Fault()).code == 0
    longest = time.monotonic() - began
    for seed in range(RANDOM_CUTS):
        timer = threading.Timer(random.Random(seed).uniform(0.0, longest), disk.cut)
        disk.fill(template / "store", "store")
        bench = Bench(disk.mount_point, template)
        timer.start()
        outcome = forker.run(bench.commands("a day"), bench.folder)
        timer.join()
        assert_survived(forker, disk, template, "a day", outcome, tmp_path)
        cuts += outcome.code != 0  # else it was through before the power went
    assert cuts > 0
    figures.add("power cut at random", disk.mount_point.name, cuts)
