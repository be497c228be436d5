"""Boot traces: which parts of a disk were read first, recorded once and brought into memory at the next start."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from dataplane.errors import AlreadyExists, DataplaneError, InvalidImage, SourceUnavailable
from dataplane.limits import KIB, MIB, VIRTUAL_SIZE_MAX
from dataplane.store.layout import naming

HEADING = "dataplane boot trace 1"
UNIT = 64 * KIB
"""Bytes of the disk that a trace tells apart."""

RANGES_MAX = 1 << 16
"""Ranges that a trace records: what comes after the first 4 GiB is no boot."""

TRACE_SIZE_MAX = 4 * MIB
"""Bytes of a trace file that is read."""


class BootTrace:
    """The units of a disk in the order in which they were first read. Safe for concurrent use."""

    def __init__(self) -> None:
        self._units: dict[int, None] = {}
        self._lock = threading.Lock()

    def note(self, offset: int, length: int) -> None:
        """Note a read of bytes of the disk."""
        first, last = offset // UNIT, (offset + length - 1) // UNIT
        if len(self._units) >= RANGES_MAX or (first in self._units and last in self._units):
            return
        with self._lock:
            for unit in range(first, last + 1):
                self._units.setdefault(unit)

    def ranges(self) -> list[tuple[int, int]]:
        """Return (offset, length) of what was read, neighbours that followed each other as one."""
        found: list[tuple[int, int]] = []
        with self._lock:
            units = list(self._units)
        for unit in units:
            if found and sum(found[-1]) == unit * UNIT:
                found[-1] = found[-1][0], found[-1][1] + UNIT
            else:
                found.append((unit * UNIT, UNIT))
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace to a new file; raises AlreadyExists, NoSpace or IoFailed."""
        lines = [HEADING, *(f"{offset} {length}" for offset, length in self.ranges())]
        target = Path(path)
        with naming(target, "writing"):
            try:
                with open(target, "x") as file:
                    file.write("\n".join(lines) + "\n")
            except FileExistsError as error:
                raise AlreadyExists(f"{target} exists already: a boot trace needs a new file") from error


def load_trace(path: str | os.PathLike[str]) -> list[tuple[int, int]]:
    """Return the (offset, length) ranges of a trace, in order. Raises SourceUnavailable or InvalidImage."""
    try:
        with open(path, "rb") as file:
            data = file.read(TRACE_SIZE_MAX)
    except OSError as error:
        raise SourceUnavailable(f"{path} cannot be read: {error.strerror}") from error
    heading, *lines = data.decode(errors="replace").splitlines() or [""]
    ranges = []
    for line in lines[:RANGES_MAX]:
        words = line.split()
        if len(words) != 2 or not all(word.isdecimal() and len(word) < 20 for word in words):
            raise InvalidImage(f"{path} is no boot trace: {line[:40]!r} is not a range")
        ranges.append((int(words[0]), int(words[1])))
    if heading != HEADING or any(offset + length > VIRTUAL_SIZE_MAX for offset, length in ranges):
        raise InvalidImage(f"{path} is no boot trace: record one with --record-trace")
    return ranges


def follow_trace(
    ranges: Iterable[tuple[int, int]], warm: Callable[[int, int], None], budget: int, stopped: threading.Event
) -> int:
    """Bring the ranges of a trace into memory, up to `budget` bytes of the disk; return how many were."""
    done = 0
    for offset, length in ranges:
        while length and done < budget and not stopped.is_set():
            step = min(length, MIB, budget - done)
            try:
                warm(offset, step)
            except DataplaneError:  # whoever reads it will be told
                return done
            offset, length, done = offset + step, length - step, done + step
    return done
