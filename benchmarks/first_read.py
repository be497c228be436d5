"""When a process reads the first byte of a file: told by the kernel, which costs the process nothing."""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

IN_ACCESS = 1
WAIT_S = 60.0

_libc = ctypes.CDLL(None, use_errno=True)


def seconds_to_first_read(command: Sequence[str], path: Path) -> float:
    """Return the seconds from before `command` is started until it reads from `path`; it has to succeed."""
    watch = _libc.inotify_init1(os.O_CLOEXEC)
    if watch < 0 or _libc.inotify_add_watch(watch, os.fsencode(path), IN_ACCESS) < 0:
        raise OSError(ctypes.get_errno(), f"{path} cannot be watched")
    try:
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            ready, _, _ = select.select([watch], [], [], WAIT_S)
            seconds = time.perf_counter() - started
            _, said = process.communicate()
    finally:
        os.close(watch)
    if process.returncode or not ready:
        raise AssertionError(f"{' '.join(command)} read nothing of {path}, or failed: {said.decode()}")
    return seconds
