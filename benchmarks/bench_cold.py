"""Analysis of a disk that is not in the page cache, beside fio, which reads the same file past the cache."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from benchmarks import inputs
from benchmarks.beside import Beside, Goal
from benchmarks.peer_tools import find, measuring, plain_environment

ROUNDS = 8
GOAL = Goal("analysis of a cold disk, whole process, beside fio's sequential read of the same file", "at least", 0.9)


@pytest.mark.skipif(find("fio") is None, reason="fio is not installed")
def test_cold_analysis(beside: Beside, disk: Path) -> None:
    """A plain qcow2, whose file has no holes, which fio would read at once and which we would not read.

    Who goes first changes each round: what lies below a virtual disk may keep what the first has read.
    """
    image = inputs.corpus_converted(disk, "qcow2")

    def of_fio() -> float:
        rates: dict[Callable[[Path], float], list[float]] = {analysis_rate: [], fio_rate: []}
        for number in range(ROUNDS):
            for measured in sorted(rates, key=lambda one: (one is fio_rate) != number % 2):
                inputs.drop(image)
                rates[measured].append(measured(image))
        return median(rates[analysis_rate]) / median(rates[fio_rate])

    beside.once(of_fio, named="fio: 1 MiB at a time past the cache, 32 under way", goal=GOAL)


def analysis_rate(path: Path) -> float:
    """Return the bytes a second of a whole process that analyses the file."""
    started = time.perf_counter()
    subprocess.run(measuring(path), env=plain_environment(), stdout=subprocess.DEVNULL, check=True)
    return path.stat().st_size / (time.perf_counter() - started)


def fio_rate(path: Path) -> float:
    """Return the bytes a second at which fio reads a file from its beginning to its end, its own start left out."""
    done = subprocess.run(
        ["fio", "--name=cold", f"--filename={path}", "--readonly", "--rw=read", "--bs=1M", "--direct=1",
         "--ioengine=libaio", "--iodepth=32", "--output-format=json"],
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return float(json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"])
