"""Landlock: the kernel refuses files outside of a few folders, programs, listening ports and signals to others.

Three system calls; there is no wrapper of them in the C library, and no binding that is well kept.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from service.sandbox.process_limits import checked, libc

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _REFER = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 13
_ALL_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_FILE_RIGHTS = _WRITE_FILE | _READ_FILE | _TRUNCATE
READ = _READ_FILE | _READ_DIR
CHANGE = READ | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER
_BIND_TCP = 1 << 0
_SCOPES = 1 << 0 | 1 << 1  # abstract Unix sockets and signals of processes outside


def version() -> int:
    """Return the version of Landlock in this kernel; 0 when there is none, or it is switched off."""
    found: int = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    return max(0, found)


def restrict(*, read: Iterable[Path], change: Iterable[Path]) -> int:
    """Keep this thread, and those it starts, from every file that does not lie under these paths.

    Paths that do not exist are left out. Files that are open already stay usable. Returns the version of Landlock, on
    which it depends what else is refused; needs no_new_privs. Raises OSError when there is none.
    """
    abi = version()
    if abi == 0:
        raise OSError("Landlock is not in this kernel, or switched off")
    handled = _ALL_BY_VERSION[max(known for known in _ALL_BY_VERSION if known <= abi)]
    attributes = struct.pack("=QQQ", handled, _BIND_TCP, _SCOPES)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    size = ctypes.c_size_t(len(attributes))
    ruleset = checked(libc.syscall(_CREATE_RULESET, attributes, size, ctypes.c_uint32(0)))
    try:
        for paths, rights in ((read, READ), (change, CHANGE)):
            for path in paths:
                _allow(ruleset, path, rights & handled)
        checked(libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)
    return abi


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, beneath)
        checked(libc.syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0)))
    finally:
        os.close(beneath)
