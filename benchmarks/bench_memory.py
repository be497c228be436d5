"""Memory of whole processes at its highest, of what was asked: so much, and some bytes for each distinct chunk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.beside import THREADS, Beside, Goal
from dataplane.limits import KIB, MIB
from dataplane.store.store import Store

ANALYSIS_BASE, ANALYSIS_CHUNK = 64 * MIB, 32
IMPORT_BASE, IMPORT_CHUNK = 96 * MIB, 64
ANALYSIS_TEXT = "memory of an analysis at {} KiB, of 64 MiB + 32 B for each distinct chunk"
TUNE_BASE, TUNE_BLOCK, TUNE_SAMPLED = 64 * MIB, 24, 128 * MIB
TUNE_TEXT = "memory of tune, of 64 MiB + 24 B for each block of 4 KiB"
TUNE_SAMPLED_TEXT = "memory of tune --sample 1/4 of eight disks, of 128 MiB"
IMPORT_TEXT = "memory of an import at {} KiB, of 96 MiB + 64 B for each distinct chunk"

CHILD = """
import re, sys
from dataplane.cli.main import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
sys.exit(code)
"""


def peak(*words: object) -> tuple[int, int]:
    """Run ``dataplane`` with these words in a process of its own; return (its peak in bytes, distinct chunks)."""
    found, fields = run(*words)
    return found, int(fields["distinct_chunks"])


def run(*words: object) -> tuple[int, dict[str, Any]]:
    """Run ``dataplane`` with these words in a process of its own; return (its peak in bytes, its JSON)."""
    command = [*map(str, words), "--threads", str(THREADS), "--progress", "none", "--json"]
    done = subprocess.run([sys.executable, "-c", CHILD, *command], capture_output=True, text=True, check=True)
    *result, peak_kib = done.stdout.strip().splitlines()
    return int(peak_kib) * 1024, json.loads("".join(result))


@pytest.mark.parametrize("chunk_kib", [64, 4])
def test_memory_analysis(beside: Beside, disk: Path, chunk_kib: int) -> None:
    def of_bound() -> float:
        found, chunks = peak("measure", disk, "--codec", "none", "--chunk-size", f"{chunk_kib}K")
        return found / (ANALYSIS_BASE + ANALYSIS_CHUNK * chunks)

    beside.once(of_bound, named="the bound", goal=Goal(ANALYSIS_TEXT.format(chunk_kib), "at most", 1))


@pytest.mark.parametrize("chunk_kib", [64, 4])
def test_memory_import(beside: Beside, disk: Path, tmp_path: Path, chunk_kib: int) -> None:
    Store.create(tmp_path / "store", chunk_size=chunk_kib * KIB).close()

    def of_bound() -> float:
        found, chunks = peak("import", tmp_path / "store", disk, "--name", "disk")
        return found / (IMPORT_BASE + IMPORT_CHUNK * chunks)

    beside.once(of_bound, named="the bound", goal=Goal(IMPORT_TEXT.format(chunk_kib), "at most", 1))
    shutil.rmtree(tmp_path)


def test_memory_tune(beside: Beside, disk: Path) -> None:
    def of_bound() -> float:
        found, fields = run("tune", disk)
        return found / (TUNE_BASE + TUNE_BLOCK * int(fields["sizes"][0]["chunks"]))

    beside.once(of_bound, named="the bound", goal=Goal(TUNE_TEXT, "at most", 1))


def test_memory_tune_sampled(beside: Beside, disk: Path) -> None:
    def of_bound() -> float:
        return run("tune", *[disk] * 8, "--sample", "1/4")[0] / TUNE_SAMPLED

    beside.once(of_bound, named="the bound", goal=Goal(TUNE_SAMPLED_TEXT, "at most", 1))
