"""Other people's tools, as benchmarks run them: each in a folder of its own, and only where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.beside import THREADS, Goal

OURSELVES = [sys.executable, "-m", "dataplane"]
QUIET = ["--progress", "none", "--threads", str(THREADS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A program that reads a raw disk once. `words` are its command, with {disk} and {folder} (for what it writes)."""

    name: str
    program: str
    words: tuple[str, ...]
    goal: Goal

    def command(self, disk: Path, folder: Path) -> list[str]:
        """Return the command for one disk."""
        return [word.format(disk=disk, folder=folder) for word in self.words]


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A program that keeps disks. Words may have {store}, {disk}, {name}, {folder} and {target}.

    `renew` makes an empty store, where the program wants that said; `put` stores a disk under a name; `get` writes one
    to {target} or below the current folder, and is empty where that is not compared.
    """

    name: str
    program: str
    package: str
    put: tuple[str, ...]
    renew: tuple[str, ...] = ()
    get: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    reads_again: bool = True
    """Whether putting the same disk again is a thing that it does."""


class Place:
    """A folder in which an archive keeps its store and everything else."""

    def __init__(self, archive: Archive, folder: Path) -> None:
        self.archive = archive
        self._folder = folder
        self._store, self._out = folder / "store", folder / "out"
        settings = {key: value.format(folder=folder) for key, value in archive.environment.items()}
        self._environment = plain_environment() | settings

    def renew(self) -> None:
        """Make the store an empty one."""
        self.close()
        self._out.mkdir(parents=True)
        if self.archive.renew:
            self._run(self.archive.renew)

    def put(self, disk: Path, name: str) -> None:
        """Store a disk. Raises RuntimeError when the program fails."""
        self._run(self.archive.put, disk=disk, name=name)

    def get(self, name: str) -> None:
        """Write a disk that was stored, sparse, to a file that was not there."""
        shutil.rmtree(self._out)
        self._out.mkdir()
        self._run(self.archive.get, name=name, target=self._out / "disk")

    def size(self) -> int:
        """Return the bytes of all files of the store."""
        files = self._store.rglob("*") if self._store.is_dir() else [self._store]
        return sum(path.stat().st_size for path in files if path.is_file())

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, words: tuple[str, ...], **places: object) -> None:
        command = [word.format(store=self._store, folder=self._folder, **places) for word in words]
        done = subprocess.run(
            command, env=self._environment, cwd=self._out, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-300:]
            raise RuntimeError(f"{self.archive.name} failed ({done.returncode}): {said}")


def find(program: str) -> str | None:
    """Return the path of a program, or None where it is not installed."""
    return shutil.which(program)


def plain_environment() -> dict[str, str]:
    """Return the environment, but for what keeps Python from writing byte code: an installed program has its own."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def measuring(disk: Path) -> list[str]:
    """Return our command that analyses a disk and compresses nothing."""
    return [*OURSELVES, "measure", "--codec", "none", *QUIET, "--json", str(disk)]


def borg(name: str, compression: str, chunk_size: int = 65536) -> Archive:
    """Return borg with chunks of a fixed size; its cache of files is off, for the content is to be looked at."""
    chunking = ("--chunker-params", f"fixed,{chunk_size}", "--compression", compression)
    return Archive(
        name=name, program="borg", package="borgbackup",
        renew=("borg", "init", "--encryption", "none", "{store}"),
        put=("borg", "create", "--files-cache", "disabled", *chunking, "{store}::{name}", "{disk}"),
        get=("borg", "extract", "--sparse", "{store}::{name}"),
        environment={"BORG_BASE_DIR": "{folder}", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"},
    )  # fmt: skip


def borg_create(disk: Path, chunk_size: int, folder: Path) -> float:
    """Return the seconds that borg takes to put `disk` into a fresh repository in chunks of a fixed size, with lz4.

    `folder` is removed before and after. Raises FileNotFoundError without borg, and RuntimeError when it fails.
    """
    place = Place(borg("borg", "lz4", chunk_size), folder)
    try:
        place.renew()
        started = time.perf_counter()
        place.put(disk, "disk")
        return time.perf_counter() - started
    finally:
        place.close()


OURS = Archive(
    name="dataplane", program=sys.executable, package="",
    renew=(*OURSELVES, "init", "{store}"),
    put=(*OURSELVES, "import", "{store}", "{disk}", "--name", "{name}", *QUIET),
    get=(*OURSELVES, "export", "{store}", "{name}", "{target}", "--no-sync", *QUIET),
)  # fmt: skip
"""Imports are durable when they end; exports leave that to the system, as the others do."""

ARCHIVES = (
    borg("borg lz4", "lz4"),
    borg("borg zstd", "zstd,1"),
    Archive(
        name="restic", program="restic", package="restic",
        renew=("restic", "-r", "{store}", "init"),
        put=("restic", "-r", "{store}", "backup", "--force", "--quiet", "{disk}"),
        environment={"RESTIC_PASSWORD": "measured", "RESTIC_CACHE_DIR": "{folder}/cache"},
    ),
    Archive(
        name="casync", program="casync", package="casync",
        put=("casync", "make", "--store={store}", "{folder}/{name}.caibx", "{disk}"),
        get=("casync", "extract", "--store={store}", "{folder}/{name}.caibx", "{target}"),
    ),
    Archive(
        name="bup", program="bup", package="bup",
        renew=("bup", "-d", "{store}", "init"),
        put=("bup", "-d", "{store}", "split", "-q", "-n", "{name}", "{disk}"),
    ),
    Archive(
        name="zstd -1 -T2", program="zstd", package="zstd", reads_again=False,
        put=("zstd", "-q", "-1", "-T2", "-f", "{disk}", "-o", "{store}"),
    ),
)  # fmt: skip

READERS = (
    Reader(
        name="qemu-img convert", program="qemu-img",
        words=("qemu-img", "convert", "-f", "raw", "-O", "raw", "{disk}", "{folder}/raw"),
        goal=Goal("analysis, whole process, times as fast as qemu-img convert", "at least", 12),
    ),
    Reader(
        name="cat", program="cat", words=("cat", "{disk}"),
        goal=Goal("analysis, whole process, times as fast as cat to /dev/null", "at least", 1.5),
    ),
    Reader(
        name="vdoestimator", program="vdoestimator",
        words=("vdoestimator", "--dedupeOnly", "--index", "{folder}/index", "{disk}"),
        goal=Goal("analysis, whole process, times as fast as vdoestimator --dedupeOnly", "at least", 20),
    ),
)  # fmt: skip
