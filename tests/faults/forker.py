"""Runs the command line in processes with the shim in them: each is forked from one that has imported everything.

As a program (``python -m tests.faults.forker``, started with the shim preloaded) it reads jobs from standard input and
answers each when its process has ended. Starting Python and importing anew would take half a second a job.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dataplane.cli.main import VERBS, main
from tests.faults.shim import Fault, Kind, Mode, arm, shimmed_environment

KILLED = -int(signal.SIGKILL)
TRACEBACK = 70


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a script ended: `code` is its exit code or minus a signal, `done` how many of its commands succeeded.

    `calls` has a line (name and path) for each counted call.
    """

    code: int
    done: int
    errors: str
    calls: tuple[str, ...]


class Forker:
    """A process that forks others. A context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dataplane-forker-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=shimmed_environment(),
        )

    def run(
        self, commands: Sequence[Sequence[object]], folder: Path, fault: Fault | None = None, mount: Path | None = None
    ) -> Outcome:
        """Run commands of the command line one after the other in one process until one fails."""
        fault = fault or Fault()
        files = {name: Path(self._folder.name) / name for name in ("log", "done", "errors")}
        for path in files.values():
            path.write_bytes(b"")
        job = {
            "commands": [[str(word) for word in words] for words in commands],
            "folder": str(folder),
            "mount": str(mount) if mount else None,
            "fault": [int(fault.mode), fault.at, int(fault.kinds), fault.error],
            **{name: str(path) for name, path in files.items()},
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the forker has died"
        return Outcome(
            code=int(answer),
            done=len(files["done"].read_bytes()),
            errors=files["errors"].read_text(),
            calls=tuple(files["log"].read_text().splitlines()),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._folder.cleanup()


def run_job(job: dict[str, Any]) -> int:
    """Run the commands of a job in this process, which is its own, and return the exit code."""
    errors = os.open(job["errors"], os.O_WRONLY | os.O_APPEND)
    os.dup2(errors, 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    done = os.open(job["done"], os.O_WRONLY | os.O_APPEND)
    mode, at, kinds, error = job["fault"]
    fault = Fault(mode=Mode(mode), at=at, kinds=Kind(kinds), error=error)
    arm(fault, job["folder"], job["log"], job["mount"])
    for words in job["commands"]:
        code = run_words(list(words))
        if code != 0:
            return code
        os.write(done, b".")
    return 0


def run_words(words: list[str]) -> int:
    """Run a command of the command line, or a function of ours that MODULE:NAME names."""
    module, _, name = words[0].partition(":")
    if not name:
        return main(words)
    return int(getattr(importlib.import_module(module), name)(words[1:]))


def serve() -> None:
    """Answer jobs until standard input ends."""
    for verb in VERBS:
        importlib.import_module(f"dataplane.cli.{verb}_verb")
    for module in (
        "dataplane.disks.snapshot",
        "dataplane.formats.probe",
        "dataplane.ingest.exporting",
        "dataplane.ingest.importing",
        "dataplane.upkeep.gc",
        "dataplane.upkeep.hurt_images",
        "dataplane.upkeep.repair",
        "dataplane.upkeep.scrub",
        "tests.faults.disk_script",
    ):
        importlib.import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                code = run_job(json.loads(line))
            except BaseException:
                traceback.print_exc()
                code = TRACEBACK
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
