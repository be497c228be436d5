"""How long the command takes to say its version, beside Python doing nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.beside import Beside, Goal

START_GOAL = Goal("start of `dataplane --version` beside `python -c pass`", "at most", 2)


def test_start_version(beside: Beside) -> None:
    command = Path(sys.executable).with_name("dataplane")
    beside(
        lambda: subprocess.run([command, "--version"], stdout=subprocess.DEVNULL, check=True),
        lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
        named="python -c pass", goal=START_GOAL, rounds=25,
    )  # fmt: skip
