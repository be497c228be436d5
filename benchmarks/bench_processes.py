"""Analysis as a whole process: beside programs that read the same disk, and of disks that are large and empty."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from benchmarks import inputs
from benchmarks.bench_analysis import BareReading
from benchmarks.beside import Beside, Goal
from benchmarks.peer_tools import READERS, Reader, find, measuring, plain_environment
from dataplane.limits import MIB

ROUNDS = 15


def quietly(command: list[str]) -> None:
    """Run a command that has to succeed."""
    subprocess.run(command, env=plain_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.program)
def test_process_analysis(beside: Beside, disk: Path, tmp_path: Path, reader: Reader) -> None:
    """Both read everything; qemu-img also writes what is not zero, into a sparse file."""
    if find(reader.program) is None:
        pytest.skip(f"{reader.program} is not installed")
    reading = BareReading(disk)
    size = reading.size
    reading.close()
    beside(
        lambda: quietly(measuring(disk)), lambda: quietly(reader.command(disk, tmp_path)),
        named=reader.name, size=size, rounds=5, before=lambda: clear(tmp_path), goal=reader.goal,
        elsewhere=True,
    )  # fmt: skip


def clear(folder: Path) -> None:
    """Remove what the last round left."""
    for path in folder.iterdir():
        path.unlink()


def empty_raw(folder: Path) -> Path:
    """Return a raw disk of 16 GiB that is one hole."""
    path = folder / "empty.raw"
    with path.open("wb") as file:
        file.truncate(16 << 30)
    return path


def empty_qcow2(folder: Path) -> Path:
    """Return a qcow2 of 8 TiB that has nothing allocated."""
    path = folder / "empty.qcow2"
    inputs.run("qemu-img", "create", "-f", "qcow2", path, 8 << 40)
    return path


@pytest.mark.parametrize(
    ("build", "more_s", "text"),
    [(empty_raw, 0.005, "16 GiB sparse raw: start-up and 5 ms"), (empty_qcow2, 0.050, "8 TiB sparse qcow2: and 50 ms")],
    ids=["raw-16G", "qcow2-8T"],
)
def test_process_empty(beside: Beside, tmp_path: Path, build: Callable[[Path], Path], more_s: float, text: str) -> None:
    """Start-up is the same command, over a disk of a megabyte that is one hole, in turns with it."""
    disk, little = build(tmp_path), tmp_path / "little.raw"
    little.write_bytes(b"")
    os.truncate(little, MIB)

    def of_bound() -> float:
        times: dict[Path, list[float]] = {little: [], disk: []}
        for _ in range(ROUNDS):
            for path, found in times.items():
                started = time.perf_counter()
                quietly(measuring(path))
                found.append(time.perf_counter() - started)
        return median(times[disk]) / (median(times[little]) + more_s)

    beside.once(of_bound, named=f"a disk of 1 MiB, and {more_s * 1000:.0f} ms", goal=Goal(text, "at most", 1))
