"""The fuzzers' targets on their seeds and on seeded mutants of them; a short slice of real fuzzing when it is slow."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = [0, 1, 0x7F, 0xFF, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, (1 << 64) - 1]
PEAK_MAX = 64 << 20
MUTANTS = {"vhdx": 20}
"""Where not 250: the checksums of a VHDX take a while."""


def mutant(draw: random.Random, seed: bytes) -> bytes:
    """Return ``seed`` with a few numbers, bits and lengths changed, more often near its beginning."""
    made = bytearray(seed)
    for _ in range(draw.randrange(1, 5)):
        if not made:
            break
        at = draw.randrange(min(len(made), draw.choice([128, 1024, 8192, len(made)])))
        how = draw.randrange(4)
        if how == 0:
            made[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            width, order = draw.choice([1, 2, 4, 8]), draw.choice(["big", "little"])
            made[at : at + width] = (draw.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
        elif how == 2:
            made[at : at + 8] = draw.randbytes(8)
        else:
            del made[draw.choice([at, len(made) - 1]) :]
    return bytes(made)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "probe"])
def test_seeds_are_read(name: str) -> None:
    assert [TARGETS[name].run(seed) for seed in TARGETS[name].seeds()].count(False) == 0


def test_probe_reads_some_seeds_and_refuses_others() -> None:
    assert {TARGETS["probe"].run(seed) for seed in TARGETS["probe"].seeds()} == {True, False}


@pytest.mark.parametrize("name", TARGETS)
def test_mutants_are_read_or_refused(name: str) -> None:
    draw = random.Random(name)
    seeds = list(TARGETS[name].seeds())
    slowest_s = 0.0
    tracemalloc.start()
    try:
        for _ in range(MUTANTS.get(name, 250)):
            made = mutant(draw, draw.choice(seeds))
            started = time.monotonic()
            TARGETS[name].run(made)
            slowest_s = max(slowest_s, time.monotonic() - started)
        assert tracemalloc.get_traced_memory()[1] < PEAK_MAX
    finally:
        tracemalloc.stop()
    assert slowest_s < 5


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_slice_of_fuzzing_finds_nothing(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed; make fuzz installs it")
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", "8", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
