"""Progress on standard error: a live bar on a terminal, a line every few seconds elsewhere, or JSON Lines."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

from dataplane.cli.sizes import human_size
from dataplane.cli.verb_parser import VerbParser
from dataplane.ingest.progress import Progress, ProgressSnapshot

BAR_INTERVAL_S = 0.1
LINE_INTERVAL_S = 5.0
JSON_INTERVAL_S = 1.0
BAR_WIDTH = 24

MODES = ("auto", "bar", "lines", "json", "none")


def add_progress_argument(parser: VerbParser) -> None:
    """Add ``--progress``."""
    parser.add_argument(
        "--progress",
        choices=MODES,
        default="auto",
        help="bar, lines every few seconds, JSON Lines, or none; auto: bar on a terminal, else lines (default: auto)",
    )


class Reporter:
    """Shows a Progress from a thread of its own while the block inside runs."""

    def __init__(self, mode: str, label: str, progress: Progress) -> None:
        self._mode = ("bar" if sys.stderr.isatty() else "lines") if mode == "auto" else mode
        self._label = label
        self._progress = progress
        self._done = threading.Event()
        interval = {"bar": BAR_INTERVAL_S, "json": JSON_INTERVAL_S}.get(self._mode, LINE_INTERVAL_S)
        self._thread = threading.Thread(target=self._show_until_done, args=(interval,), daemon=True)

    def __enter__(self) -> Progress:
        if self._mode != "none":
            self._thread.start()
        return self._progress

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._mode == "none":
            return
        self._thread.join()
        snapshot = self._progress.snapshot()
        if self._mode == "bar":
            sys.stderr.write(f"\r{bar_line(self._label, snapshot)}\x1b[K\n" if error is None else "\r\x1b[K")
        elif self._mode == "json":
            if error is not None:
                self._json("error", {"message": str(error) or type(error).__name__})
            self._json("summary", {"finished": True, "succeeded": error is None, **counters(snapshot)})
        sys.stderr.flush()

    def _show_until_done(self, interval: float) -> None:
        while not self._done.wait(interval):
            snapshot = self._progress.snapshot()
            if self._mode == "bar":
                sys.stderr.write(f"\r{bar_line(self._label, snapshot)}\x1b[K")
            elif self._mode == "json":
                self._json("status", counters(snapshot))
            else:
                sys.stderr.write(f"{bar_line(self._label, snapshot)}\n")
            sys.stderr.flush()

    def _json(self, kind: str, fields: dict[str, object]) -> None:
        import json

        sys.stderr.write(json.dumps({"type": kind, "label": self._label, **fields}) + "\n")


def counters(snapshot: ProgressSnapshot) -> dict[str, object]:
    """Return a snapshot under the names of its fields."""
    return {name: getattr(snapshot, name) for name in ProgressSnapshot.__slots__}


def bar_line(label: str, snapshot: ProgressSnapshot) -> str:
    """Return one line for people."""
    share = snapshot.position_bytes / snapshot.total_bytes if snapshot.total_bytes else 0.0
    filled = round(BAR_WIDTH * share)
    eta = f"  ETA {snapshot.eta_s:.0f} s" if snapshot.eta_s is not None and share < 1 else ""
    return (
        f"{label} [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {share:4.0%} of {human_size(snapshot.total_bytes)}"
        f"  {human_size(snapshot.rate)}/s{eta}  zero {human_size(snapshot.zero_bytes)}"
        f"  duplicate {human_size(snapshot.duplicate_bytes)}  new {human_size(snapshot.new_bytes)}"
    )
