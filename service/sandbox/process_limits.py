"""Limits and switches of a process: memory, core dumps, privileges, being looked into."""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
FILES_MAX = 4096

libc = ctypes.CDLL(None, use_errno=True)


def apply(*, memory: int) -> None:
    """Bound this process and what it starts. `memory` is in bytes of data: heap, stacks, private mappings.

    Not the address space: that also counts maps of files, which take no memory that others could use, and what
    allocators reserve and never touch. Raises OSError.
    """
    _lower(resource.RLIMIT_DATA, memory)
    _lower(resource.RLIMIT_CORE, 0)  # a core would hold the URL of a source, whose query may be a secret
    _lower(resource.RLIMIT_NOFILE, FILES_MAX)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)  # no debugger of the same user, no reading of /proc/PID/mem


def checked(result: int) -> int:
    """Return what a function of the C library returned. Raises OSError when that is −1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (bound, bound))


def _prctl(option: int, value: int) -> None:
    checked(libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))
