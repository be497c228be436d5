"""The shim that counts and breaks system calls: compiled when first needed, and the numbers it knows things by."""

from __future__ import annotations

import ctypes
import enum
import functools
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


class Kind(enum.IntFlag):
    """Calls that change what a disk holds."""

    WRITE = 1
    SYNC = 2
    RENAME = 4
    REMOVE = 8
    LINK = 16
    MAKE = 32
    CREATE = 64
    RESIZE = 128


GROWING = Kind.WRITE | Kind.RENAME | Kind.LINK | Kind.MAKE | Kind.CREATE | Kind.RESIZE
"""Calls that may find no space."""
EVERY = GROWING | Kind.SYNC | Kind.REMOVE


class Mode(enum.IntEnum):
    """What happens at the k-th call."""

    COUNT = 0
    KILL = 1
    TEAR = 2  # a write reaches half of its bytes, any other call its end, then the process is killed
    FAIL = 3
    FAIL_ON = 4  # and every one after it
    SHORTEN = 5  # a write reaches half of its bytes and says so
    CUT = 6  # the file system is shut down without a flush of its log, then the call is made
    CUT_AFTER = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What to do to a process: at its `at`-th call (from 1) of `kinds` on a file below the folder under test."""

    mode: Mode = Mode.COUNT
    at: int = 0
    kinds: Kind = EVERY
    error: int = 0


@functools.cache
def shim_library() -> Path:
    """Return the compiled shim, for LD_PRELOAD."""
    library = Path(tempfile.mkdtemp(prefix="dataplane-shim-")) / "shim.so"
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-fPIC", "-shared", "-o", library, SOURCE], check=True)
    return library


def shimmed_environment() -> dict[str, str]:
    """Return this process's environment with the shim preloaded."""
    return {**os.environ, "LD_PRELOAD": str(shim_library())}


def arm(fault: Fault, folder: str, log: str, mount: str | None) -> None:
    """Arm the shim in this process, which was started with it preloaded."""
    done = ctypes.CDLL(None).fault_arm(
        folder.encode(),
        int(fault.kinds),
        int(fault.mode),
        ctypes.c_long(fault.at),
        fault.error,
        log.encode(),
        mount.encode() if mount else None,
    )
    if done != 0:
        raise RuntimeError(f"the shim could not be armed for {folder} with the log {log}")
