"""Live progress of an operation on stderr: a line that is redrawn on a terminal, one every few seconds elsewhere."""

from __future__ import annotations

import sys
import time

from service._pb.dataplane.v1 import image_details_pb2 as details

PLAIN_PAUSE_S = 3.0
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class ProgressLine:
    """Draws progress; leave the block to end the line."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._drawn_s = float("-inf")
        self._width = 0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            sys.stderr.write("\n")
            sys.stderr.flush()

    def draw(self, progress: details.Progress) -> None:
        """Show `progress`, unless something was shown a moment ago."""
        text = describe(progress)
        if self._terminal:
            sys.stderr.write(f"\r{text:<{self._width}}")
            self._width = len(text)
        elif progress.done or time.monotonic() - self._drawn_s >= PLAIN_PAUSE_S:
            sys.stderr.write(f"{text}\n")
            self._drawn_s = time.monotonic()
        sys.stderr.flush()


def describe(progress: details.Progress) -> str:
    """Return progress as one line."""
    stage = details.Progress.Stage.Name(progress.stage).lower()
    if progress.queue_position:
        return f"{stage}, place {progress.queue_position} in the queue"
    if progress.stage == details.Progress.SOURCE_EXPIRED:
        return "the URL has expired: give another one with dataplane image refresh"
    if not progress.total_bytes:
        return stage
    part = 100 if progress.done else 100 * progress.position_bytes // progress.total_bytes
    counts = ", ".join(
        f"{name} {size_text(value)}"
        for name, value in (
            ("zero", progress.zero_bytes),
            ("duplicate", progress.duplicate_bytes),
            ("new", progress.new_bytes),
            ("written", progress.written_bytes),
        )
    )
    eta = f", {progress.eta_seconds:.0f} s left" if progress.HasField("eta_seconds") else ""
    rate = f"{size_text(int(progress.bytes_per_second))}/s"
    return f"{stage} {part:3d} % of {size_text(progress.total_bytes)}, {rate}{eta}: {counts}"


def size_text(size: int) -> str:
    """Return a number of bytes for people."""
    value = float(size)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
