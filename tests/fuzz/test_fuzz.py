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

from dataplane.errors import SourceError
from dataplane.formats.vhdx import open_vhdx
from tests.fuzz.contract import MemoryReader, check_source
from tests.fuzz.mutants import mutant
from tests.fuzz.targets import TARGETS
from tests.fuzz.vhdx import file_of_pages, sealed

ROOT = Path(__file__).resolve().parents[2]
PEAK_MAX = 64 << 20
MUTANTS = {"vhdx": 60}
"""Where not 250: the checksums of a VHDX take a while."""


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
            made = mutant(draw, draw.choice(seeds), TARGETS[name].piece_size)
            started = time.monotonic()
            TARGETS[name].run(made)
            slowest_s = max(slowest_s, time.monotonic() - started)
        assert tracemalloc.get_traced_memory()[1] < PEAK_MAX
    finally:
        tracemalloc.stop()
    assert slowest_s < 5


def test_mutants_of_vhdx_get_behind_the_checksums() -> None:
    """Sealed anew, many a mutant is read, and more are refused for what their tables say than for their sums."""
    draw = random.Random(7)
    target, seeds = TARGETS["vhdx"], list(TARGETS["vhdx"].seeds())
    refusals: dict[str, int] = {}
    for _ in range(60):
        file = file_of_pages(mutant(draw, draw.choice(seeds), target.piece_size))
        try:
            check_source(open_vhdx(MemoryReader(sealed(file))))
            words = "read"
        except SourceError as error:
            words = "checksum" if "checksum" in str(error) else "tables"
        refusals[words] = refusals.get(words, 0) + 1
    assert refusals["read"] >= 5
    assert refusals["tables"] >= 10
    assert refusals.get("checksum", 0) < refusals["tables"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_slice_of_fuzzing_finds_nothing(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed; make fuzz installs it")
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", "8", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
