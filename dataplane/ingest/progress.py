"""Live progress: counters that a pipeline updates once a window and anyone may read at any time."""

from __future__ import annotations

import time

from dataplane.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressSnapshot:
    """Progress at one moment. Bytes of the logical disk, except `read_bytes` (source) and `written_bytes` (store)."""

    stage: str
    total_bytes: int
    position_bytes: int
    read_bytes: int
    zero_bytes: int
    duplicate_bytes: int
    new_bytes: int
    written_bytes: int
    seconds: float
    rate: float
    """Bytes of the disk passed each second since the start."""
    eta_s: float | None
    """Seconds left at that rate; None while there is nothing to judge by."""


class Progress:
    """Counters of one import, export or measurement.

    `stage` is one of opening, reading, committing and done. `resumed_bytes` is where on the disk an import went on that
    had been interrupted: what lies before has cost this one nothing. Written by one pipeline (under its lock), read by
    anyone.
    """

    def __init__(self) -> None:
        self.stage = "opening"
        self.total_bytes = 0
        self.position_bytes = 0
        self.resumed_bytes = 0
        self.read_bytes = 0
        self.zero_bytes = 0
        self.duplicate_bytes = 0
        self.new_bytes = 0
        self.written_bytes = 0
        self._started = time.monotonic()

    def snapshot(self) -> ProgressSnapshot:
        """Return the counters as they stand."""
        seconds = time.monotonic() - self._started
        passed = max(0, self.position_bytes - self.resumed_bytes)
        rate = passed / seconds if seconds > 0 else 0.0
        left = self.total_bytes - self.position_bytes
        return ProgressSnapshot(
            stage=self.stage,
            total_bytes=self.total_bytes,
            position_bytes=self.position_bytes,
            read_bytes=self.read_bytes,
            zero_bytes=self.zero_bytes,
            duplicate_bytes=self.duplicate_bytes,
            new_bytes=self.new_bytes,
            written_bytes=self.written_bytes,
            seconds=seconds,
            rate=rate,
            eta_s=left / rate if rate > 0 and self.stage == "reading" else None,
        )
