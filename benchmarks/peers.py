"""Whole processes beside other people's: ``python -m benchmarks.peers [--disk-mib N] [--rounds N]``.

Installs nothing: runs whichever tools are there on the same disks, in pairs with ours, first the one and then the
other in turn, and prints what was reached as Markdown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks import inputs
from benchmarks.beside import Goal, Result
from benchmarks.conftest import read_anew
from benchmarks.peer_tools import (
    ARCHIVES,
    OURS,
    OURSELVES,
    QUIET,
    READERS,
    Archive,
    Place,
    find,
    measuring,
    plain_environment,
)
from benchmarks.report import tables
from dataplane.limits import MIB

STEPS = {
    "first": "first import of a disk",
    "again": "the same disk again",
    "changed": "a changed version after it",
    "export": "export to raw, sparse",
}

TIMES_AS_FAST: dict[str, dict[str, float]] = {
    "borg lz4": {"first": 2.2, "again": 15, "changed": 3.5, "export": 5},
    "restic": {"first": 10, "again": 50, "changed": 20},
    "casync": {"first": 10, "again": 100, "changed": 20, "export": 5},
    "bup": {"first": 10, "again": 100, "changed": 20},
    "zstd -1 -T2": {"first": 1},
}
SIZE_GOALS = {
    ("borg lz4", "store"): Goal("size of the store beside that of borg lz4", "at most", 0.85),
    ("borg zstd", "growth"): Goal("growth by the changed version beside that of borg zstd", "at most", 1),
}

# what it is called, format, compression, options of qemu-img, how many times as fast is asked for
IMAGES: tuple[tuple[str, str, str | None, dict[str, str], float], ...] = (
    ("zlib qcow2", "qcow2", "zlib", {}, 10),
    ("zstd qcow2", "qcow2", "zstd", {}, 4),
    ("streamOptimized VMDK", "vmdk", None, {"subformat": "streamOptimized"}, 7),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="Speeds beside other tools.")
    parser.add_argument("--disk-mib", type=int, default=4096, metavar="N", help="size of the disk (default: 4096)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="pairs of each comparison (default: 3)")
    options = parser.parse_args(arguments)
    disk = inputs.corpus_disk(options.disk_mib * MIB)
    changed = inputs.corpus_changed(disk)
    for path in (disk, changed):
        read_anew(path)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="peers-", dir=inputs.CORPUS) as folder:
        for result in measured(disk, changed, Path(folder), options.rounds):
            print(f"{result.name}: {result.ratio:.2f}", flush=True)
            results.append(result)
    print("\n" + "\n".join(tables(result.info() for result in results)))
    for line in missing():
        print(line)
    return 0


def missing() -> list[str]:
    """Return a line for each tool that is not installed."""
    tools = {tool.program: f" (Debian package {tool.package})" for tool in ARCHIVES}
    tools |= {reader.program: "" for reader in READERS}
    return [f"missing: {program}{hint}" for program, hint in tools.items() if find(program) is None]


def measured(disk: Path, changed: Path, folder: Path, rounds: int) -> Iterator[Result]:
    """Yield every comparison that can be made here."""
    for reader in READERS:
        if find(reader.program):
            theirs = reader.command(disk, folder)
            yield paired(f"analysis beside {reader.name}", measuring(disk), theirs, disk, folder, rounds, reader.goal)
    if find("qemu-img"):
        yield from formats(disk, folder, rounds)
        yield export_beside_qemu(disk, folder, rounds)
    for archive in ARCHIVES:
        if find(archive.program):
            try:
                yield from lived(archive, disk, changed, folder, rounds).values()
            except RuntimeError as error:  # one that fails here does not take the others' figures with it
                print(f"{archive.name} is left out: {error}", file=sys.stderr)


def formats(disk: Path, folder: Path, rounds: int) -> Iterator[Result]:
    """Yield the analysis of each compressed image of the disk, beside its conversion to raw."""
    for name, format, compression, settings, times in IMAGES:
        image = inputs.corpus_converted(disk, format, compression=compression, **settings)
        read_anew(image)
        theirs = ["qemu-img", "convert", "-f", format, "-O", "raw", str(image), str(folder / "raw")]
        goal = Goal(f"analysis of {name}, times as fast as qemu-img convert", "at least", times)
        yield paired(f"analysis of {name}", measuring(image), theirs, disk, folder, rounds, goal)


def export_beside_qemu(disk: Path, folder: Path, rounds: int) -> Result:
    """Compare an export to raw with the conversion of a zstd qcow2 to raw."""
    image = inputs.corpus_converted(disk, "qcow2", compression="zstd")
    read_anew(image)
    place, target = Place(OURS, folder / "ours"), str(folder / "raw")
    place.renew()
    place.put(disk, "disk")
    ours = [*OURSELVES, "export", str(folder / "ours" / "store"), "disk", target, "--no-sync", *QUIET]
    theirs = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), target]
    goal = Goal("export to raw, times as fast as qemu-img convert from zstd qcow2", "at least", 1)
    found = paired("export beside qemu-img", ours, theirs, disk, folder, rounds, goal)
    place.close()
    return found


def paired(name: str, ours: list[str], theirs: list[str], disk: Path, folder: Path, rounds: int, goal: Goal) -> Result:
    """Run two commands in turns, each after what the last one wrote into `folder` was removed."""

    def run(command: list[str]) -> None:
        subprocess.run(
            command, env=plain_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
        )

    def prepare() -> None:
        for path in folder.iterdir():
            if path.is_file():
                path.unlink()
        os.sync()

    times = in_turns([lambda: run(ours), lambda: run(theirs)], rounds, prepare)
    return times_as_fast(name, times, Path(theirs[0]).name, disk, goal)


def in_turns(works: Sequence[Callable[[], object]], rounds: int, prepare: Callable[[], object]) -> list[list[float]]:
    """Time each of `works` once a round, in the other order every other round; return the seconds of each."""
    times: list[list[float]] = [[] for _ in works]
    for number in range(rounds):
        for place in range(len(works))[:: -1 if number % 2 else 1]:
            prepare()
            started = time.perf_counter()
            works[place]()
            times[place].append(time.perf_counter() - started)
    return times


def lived(archive: Archive, disk: Path, changed: Path, folder: Path, rounds: int) -> dict[str, Result]:
    """Take an archive and ours through all steps side by side, from an empty store in each round."""
    places = [Place(OURS, folder / "ours"), Place(archive, folder / "theirs")]
    times: dict[str, list[list[float]]] = {}
    for number in range(rounds):
        for place in places:
            place.renew()
        sizes = {}
        for step in steps_of(archive):
            order = [1, 0] if number % 2 else [0, 1]
            for at in order:
                os.sync()
                started = time.perf_counter()
                take_step(places[at], step, disk, changed)
                times.setdefault(step, [[], []])[at].append(time.perf_counter() - started)
            sizes[step] = [place.size() for place in places]
    for place in places:
        place.close()
    return results_of(archive, disk, times, sizes)


def results_of(
    archive: Archive, disk: Path, times: dict[str, list[list[float]]], sizes: dict[str, list[int]]
) -> dict[str, Result]:
    """Return what the steps came to: how many times as fast each was, and what the stores of the last round took."""
    results = {}
    for step, pair in times.items():
        asked = TIMES_AS_FAST.get(archive.name, {}).get(step)
        goal = None if asked is None else Goal(f"{STEPS[step]}, times as fast as {archive.name}", "at least", asked)
        results[step] = times_as_fast(f"{STEPS[step]} beside {archive.name}", pair, archive.name, disk, goal)
    for what in sizes_of(archive):
        before, after = (None, "first") if what == "store" else ("again", "changed")
        ours, theirs = (sizes[after][at] - (sizes[before][at] if before else 0) for at in (0, 1))
        share = ours / max(1, theirs)
        results[what] = Result(
            name=f"{what} in bytes beside {archive.name}", rate=None,
            baseline=f"{theirs / MIB:.1f} MiB", baseline_rate=None,
            ratio=share, ratio_best=share, goal=SIZE_GOALS.get((archive.name, what)),
        )  # fmt: skip
    return results


def sizes_of(archive: Archive) -> list[str]:
    """Return which sizes are compared: of the store after the first import, and its growth by the changed version."""
    return ["store", "growth"] if archive.reads_again else ["store"]


def steps_of(archive: Archive) -> list[str]:
    """Return the steps that an archive can be taken through."""
    steps = ["first", "again", "changed"] if archive.reads_again else ["first"]
    return [*steps, "export"] if archive.get else steps


def take_step(place: Place, step: str, disk: Path, changed: Path) -> None:
    """Do one step."""
    if step == "export":
        place.get("first")
    else:
        place.put(changed if step == "changed" else disk, step)


def times_as_fast(name: str, times: list[list[float]], beside: str, disk: Path, goal: Goal | None) -> Result:
    """Return a result from our seconds and theirs; rates are over what the disk occupies."""
    ours, theirs = times
    size = disk.stat().st_blocks * 512
    return Result(
        name=name, rate=size / median(ours), baseline=beside, baseline_rate=size / median(theirs),
        ratio=median(theirs) / median(ours), ratio_best=min(theirs) / min(ours), goal=goal,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
