"""Full disks and I/O errors at each call: one clean line, the store as it was and readable, and no false success.

A script is run once to count its calls; then for each of them once with that call failing, and once with it and all
later ones failing. Once more each write is cut to half its length, which is no error and must not become one.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.faults.figures import Figures
from tests.faults.forker import Forker, Outcome
from tests.faults.scripts import BEGUN_AGAIN, SCRIPTS, Bench, assert_sound, benches, states_of
from tests.faults.shim import EVERY, GROWING, Fault, Kind, Mode

ERRORS = {"ENOSPC": GROWING, "EDQUOT": GROWING, "EFBIG": Kind.WRITE | Kind.RESIZE, "EIO": EVERY}
"""Errors, and the calls that may give them."""
SINGLE = [script for script, commands in SCRIPTS.items() if len(commands) == 1]
SLICE = 40
"""In `make test` a call in so many fails, and of the longest scripts one in twice as many."""


def fail_everywhere(
    forker: Forker, template: Path, folder: Path, script: str, fault: Fault, step: int = 1, first: int = 1
) -> int:
    """Fail a script at each `step`-th of its calls; return how many calls failed."""
    folder.mkdir()
    copies = benches(template, folder, script)
    bench = next(copies)
    counted = forker.run(bench.commands(script), bench.folder, Fault(kinds=fault.kinds))
    assert counted.code == 0, counted.errors
    failures = 0
    for at, bench in zip(range(first, len(counted.calls) + 1, step), copies, strict=False):
        planned = Fault(mode=fault.mode, at=at, kinds=fault.kinds, error=fault.error)
        outcome = forker.run(bench.commands(script), bench.folder, planned)
        failures += len(outcome.calls) >= at
        try:
            assert_clean(outcome, planned)
            if script in BEGUN_AGAIN:
                again = forker.run(bench.commands(script), bench.folder)
                assert again.code == 0, again.errors
            assert_as_before(script, bench, outcome, planned, template)
        except Exception as error:
            site = f"{script}, {fault.mode.name} {errno.errorcode.get(fault.error)} at call {at}"
            raise AssertionError(
                f"{site}, {counted.calls[at - 1]}: exit code {outcome.code}: {outcome.errors}"
            ) from error
    return failures


def assert_clean(outcome: Outcome, fault: Fault) -> None:
    """A command fails with one line that says so, or does not fail."""
    if fault.mode is Mode.SHORTEN:
        assert outcome.code == 0
    assert outcome.code in (0, 1)
    if outcome.code == 1:
        assert len(outcome.errors.splitlines()) == 1
        assert outcome.errors.startswith("dataplane: ")


def assert_as_before(script: str, bench: Bench, outcome: Outcome, fault: Fault, disks: Path) -> None:
    """The store is as it was before a command that failed, and a failed export leaves nothing but a whole file.

    When a disk takes nothing any more from some moment on, two things are beyond anybody's power: removing a partial
    file, and taking back a commit that reached the log but whose fsync failed. The image is whole then too.
    """
    if outcome.code == 0 and script == "export":
        assert bench.out.exists()
    if bench.out.exists():
        assert bench.out.read_bytes() == (disks / "a").read_bytes()
    names = {path.name for path in bench.folder.iterdir()} - {"store", "out"}
    assert not names or fault.mode is Mode.FAIL_ON, names
    states = states_of(script)[outcome.done :]
    in_doubt = fault.mode is Mode.FAIL_ON and fault.kinds & Kind.SYNC
    if not in_doubt and not script.startswith("gc"):  # a collection may have done a part of its work
        states = states[:1]
    assert_sound(bench.store, states, disks, bench.folder / "check")


@pytest.mark.parametrize("script", SINGLE)
@pytest.mark.parametrize("name", ["ENOSPC", "EIO"])
def test_errors_slice(forker: Forker, template: Path, tmp_path: Path, script: str, name: str) -> None:
    for mode, first in ((Mode.FAIL, 2), (Mode.FAIL_ON, 4)):
        fault = Fault(mode=mode, kinds=ERRORS[name], error=getattr(errno, name))
        step = 2 * SLICE if script in BEGUN_AGAIN else SLICE
        assert fail_everywhere(forker, template, tmp_path / mode.name, script, fault, step, first) > 0


@pytest.mark.slow
@pytest.mark.parametrize("script", SINGLE)
@pytest.mark.parametrize("name", ERRORS)
def test_errors_everywhere(
    forker: Forker, template: Path, tmp_path: Path, script: str, name: str, figures: Figures
) -> None:
    for mode in (Mode.FAIL, Mode.FAIL_ON):
        fault = Fault(mode=mode, kinds=ERRORS[name], error=getattr(errno, name))
        failures = fail_everywhere(forker, template, tmp_path / mode.name, script, fault)
        assert failures > 0
        figures.add(f"{name} {'once' if mode is Mode.FAIL else 'for good'}", script, failures)


@pytest.mark.slow
@pytest.mark.parametrize("script", SINGLE)
def test_short_writes_everywhere(forker: Forker, template: Path, tmp_path: Path, script: str, figures: Figures) -> None:
    fault = Fault(mode=Mode.SHORTEN, kinds=Kind.WRITE)
    figures.add("short write", script, fail_everywhere(forker, template, tmp_path / "short", script, fault))
