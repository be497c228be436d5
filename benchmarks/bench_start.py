"""How long the command takes to be at work, beside Python doing nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from benchmarks.beside import Beside, Goal
from benchmarks.first_read import seconds_to_first_read

START_GOAL = Goal("start of `dataplane --version` beside `python -c pass`", "at most", 2)
DATAPLANE = str(Path(sys.executable).with_name("dataplane"))
ROUNDS = 25

BEFORE_FIRST_BYTE_S = 0.045
"""From the start of the process to the first byte of the image, or of the ledger, that it reads."""

VERBS = {
    "measure-none": ["measure", "SOURCE", "--codec", "none"],
    "measure-zstd": ["measure", "SOURCE"],
    "tune": ["tune", "SOURCE"],
    "map": ["map", "SOURCE"],
    "import": ["import", "STORE", "SOURCE", "--name", "NEW"],
    "ls": ["ls", "STORE"],
    "stat": ["stat", "STORE"],
    "export": ["export", "STORE", "image", "-"],
    "diff": ["diff", "STORE", "image", "image"],
    "verify": ["verify", "STORE"],
    "gc": ["gc", "STORE", "--dry-run"],
    "repair": ["repair", "STORE"],
}
"""What is timed; those with a SOURCE until they read from it, the others until they read from the ledger."""


def test_start_version(beside: Beside) -> None:
    beside(
        lambda: subprocess.run([DATAPLANE, "--version"], stdout=subprocess.DEVNULL, check=True),
        lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
        named="python -c pass", goal=START_GOAL, rounds=ROUNDS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk so small that what is done with it takes no time."""
    path = tmp_path_factory.mktemp("start") / "disk.raw"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


@pytest.fixture(scope="module")
def store(source: Path) -> Path:
    """A store with that disk as ``image``."""
    path = source.with_name("store")
    for words in (["init", path], ["import", path, source, "--name", "image"]):
        subprocess.run([DATAPLANE, *map(str, words)], capture_output=True, check=True)
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_first_byte(beside: Beside, benchmark: object, source: Path, store: Path, verb: str) -> None:
    """The median, and beside it in turns Python doing nothing, as `python_seconds`: the machine's share of it."""
    watched = source if "SOURCE" in VERBS[verb] else store / "ledger.sqlite3"
    idle: list[float] = []

    def run() -> float:
        times = []
        for number in range(ROUNDS):
            names = {"SOURCE": str(source), "STORE": str(store), "NEW": f"image {number}"}
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            idle.append(time.perf_counter() - started)
            times.append(seconds_to_first_read([DATAPLANE, *(names.get(word, word) for word in VERBS[verb])], watched))
        return median(times) / BEFORE_FIRST_BYTE_S

    goal = Goal(f"`dataplane {verb.replace('-', ' ')}`: to the first byte read, of 45 ms", "at most", 1)
    beside.once(run, named="45 ms", goal=goal)
    benchmark.extra_info["python_seconds"] = median(idle)  # type: ignore[attr-defined]
