"""kill -9 at each call that makes something durable: committed images stay whole, and no hand is needed afterwards.

A script is run once to count its calls; then once more for each of them, killed when it is about to make that call, and
once more for each write, killed when half of its bytes have arrived.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.figures import Figures
from tests.faults.forker import KILLED, Forker
from tests.faults.scripts import BEGUN_AGAIN, SCRIPTS, assert_sound, benches, states_of
from tests.faults.shim import Fault, Kind, Mode

SLICE = 5
"""In `make test` every script is killed at so many points, evenly spread."""


def kill_everywhere(forker: Forker, template: Path, folder: Path, script: str, fault: Fault, points: int | None) -> int:
    """Kill a script at each of its calls, or at `points` of them; return how often it was killed."""
    folder.mkdir(exist_ok=True)
    copies = benches(template, folder, script)
    bench = next(copies)
    counted = forker.run(bench.commands(script), bench.folder, Fault(kinds=fault.kinds))
    assert counted.code == 0, counted.errors
    states, total, kills = states_of(script), len(counted.calls), 0
    step = 1 if points is None else max(1, total // points)
    for at, bench in zip(range(1, total + 1, step), copies, strict=False):
        outcome = forker.run(bench.commands(script), bench.folder, Fault(mode=fault.mode, at=at, kinds=fault.kinds))
        assert outcome.code in (0, KILLED), f"call {at} of {script}: {outcome.errors}"
        kills += outcome.code == KILLED
        try:
            if script in BEGUN_AGAIN:
                again = forker.run(bench.commands(script), bench.folder)
                assert again.code == 0, again.errors
            assert_sound(bench.store, states[outcome.done : outcome.done + 2], template, folder / "check")
        except Exception as error:
            raise AssertionError(f"{script} killed at call {at}, {outcome.calls[-1]}") from error
    return kills


@pytest.mark.parametrize("script", SCRIPTS)
def test_kill_slice(forker: Forker, template: Path, tmp_path: Path, script: str) -> None:
    assert kill_everywhere(forker, template, tmp_path, script, Fault(mode=Mode.KILL), SLICE) > 0


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_kill_everywhere(forker: Forker, template: Path, tmp_path: Path, script: str, figures: Figures) -> None:
    kills = kill_everywhere(forker, template, tmp_path / "kills", script, Fault(mode=Mode.KILL), None)
    torn = kill_everywhere(forker, template, tmp_path / "torn", script, Fault(mode=Mode.TEAR, kinds=Kind.WRITE), None)
    assert kills > torn > 0
    figures.add("killed at a call", script, kills)
    figures.add("killed in a write", script, torn)
