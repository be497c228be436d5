"""Other people's tools, as benchmarks run them: each in a folder of its own, warm, and only where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path


def find(program: str) -> str | None:
    """Return the path of a program, or None where it is not installed."""
    return shutil.which(program)


def borg_create(disk: Path, chunk_size: int, folder: Path) -> float:
    """Return the seconds that borg takes to put `disk` into a fresh repository in chunks of a fixed size, with lz4.

    `folder` must not exist; it is removed again. Raises FileNotFoundError without borg, and CalledProcessError.
    """
    program = find("borg")
    if program is None:
        raise FileNotFoundError("borg is not installed (Debian package borgbackup)")
    folder.mkdir()
    repository = folder / "repository"
    environment = {
        **os.environ,
        "BORG_BASE_DIR": str(folder),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }
    try:
        run([program, "init", "--encryption", "none", str(repository)], environment)
        started = time.perf_counter()
        run(
            [
                *(program, "create", "--compression", "lz4", "--chunker-params", f"fixed,{chunk_size}"),
                *(f"{repository}::disk", str(disk)),
            ],
            environment,
        )
        return time.perf_counter() - started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(command: list[str], environment: dict[str, str]) -> None:
    """Run a command that has to succeed, quietly."""
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
