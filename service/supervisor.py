"""Keeps worker processes running: starts them, replaces those that die, drains them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dataplane import Store
from dataplane.errors import DataplaneError
from service.catalog import operation_rows
from service.catalog.database import Database
from service.config import WorkConfig, WorkerConfig, worker_owner
from service.log import get_logger
from service.telemetry.metrics import Metrics
from service.telemetry.reports import LINE_LENGTH_MAX, Report
from service.telemetry.tracing import Tracing

WATCH_S = 0.1
RESTART_PAUSE_MAX_S = 5.0
HEALTHY_S = 10.0
"""A worker that lived this long is replaced at once; one that did not, after a pause that doubles."""

_ADDED = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Numerical libraries start threads when they are imported, which confinement would not reach; none has work here."""

_PASSED_ON = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "VIRTUAL_ENV", "DATAPLANE_CPU", "TMPDIR")
_PASSED_ON_PREFIXES = ("LC_", "LD_", "PYTHON", "SSL_CERT_", "ASAN_", "UBSAN_", "PG")

log = get_logger(__name__)


def environment_of_worker(given: Mapping[str, str]) -> dict[str, str]:
    """Return what workers need of an environment: credentials that a server happens to have stay with it."""
    kept = {name: value for name, value in given.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)}
    return kept | _ADDED


def _ignore(_report: Report) -> None:
    """Do nothing."""


def _ignore_death() -> None:
    """Do nothing."""


@dataclass(slots=True)
class _Slot:
    index: int
    generation: int = 0
    owner: str = ""
    process: subprocess.Popen[str] | None = None
    started_s: float = 0.0
    pause_s: float = 0.0
    start_at_s: float = field(default=0.0)


class Supervisor:
    """A fixed number of worker processes and the thread that watches over them."""

    def __init__(
        self,
        database: Database,
        make_config: Callable[[str], WorkerConfig],
        *,
        workers: int,
        reported: Callable[[Report], None] = _ignore,
        died: Callable[[], None] = _ignore_death,
    ) -> None:
        """`reported` is told of each turn on an operation, `died` of each worker that ended on its own."""
        self._database = database
        self._make_config = make_config
        self._slots = [_Slot(index) for index in range(workers)]
        self._reported = reported
        self._died = died
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the workers and the watch over them."""
        for slot in self._slots:
            self._start(slot)
        self._thread.start()

    def drain(self, timeout_s: float) -> None:
        """Tell the workers to finish their window and give their operations back; kill those that take longer."""
        self._stopping.set()
        self._thread.join()
        processes = [slot.process for slot in self._slots if slot.process is not None]
        for process in processes:
            process.terminate()
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        deadline_s = time.monotonic() + timeout_s
        for process in processes:
            try:
                process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("worker killed: it did not drain in time", worker_pid=process.pid)
                process.kill()
                process.wait()
        for slot in self._slots:
            self._expire_leases(slot)

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_S):
            for slot in self._slots:
                if slot.process is not None and slot.process.poll() is not None:
                    self._bury(slot, slot.process)
                if slot.process is None and time.monotonic() >= slot.start_at_s:
                    self._start(slot)

    def _start(self, slot: _Slot) -> None:
        slot.generation += 1
        slot.owner = worker_owner(slot.index, slot.generation)
        slot.started_s = time.monotonic()
        # A fresh interpreter, not a fork: the server has threads and gRPC, which do not survive one.
        slot.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "service.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment_of_worker(os.environ),
        )
        threading.Thread(target=self._listen, args=(slot.process,), name=f"reports-{slot.index}", daemon=True).start()
        with contextlib.suppress(BrokenPipeError):  # died at once: the watch sees it
            assert slot.process.stdin is not None  # noqa: S101 - asked for above
            slot.process.stdin.write(self._make_config(slot.owner).to_line() + "\n")
            slot.process.stdin.flush()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Pass on what a worker reports until it is gone."""
        assert process.stdout is not None  # noqa: S101 - asked for
        with process.stdout as lines:
            while line := lines.readline(LINE_LENGTH_MAX):
                report = Report.from_line(line)
                if report is not None:
                    self._reported(report)

    def count(self) -> int:
        """Return how many workers run."""
        return sum(slot.process is not None and slot.process.poll() is None for slot in self._slots)

    def _bury(self, slot: _Slot, process: subprocess.Popen[str]) -> None:
        lived_s = time.monotonic() - slot.started_s
        slot.pause_s = 0.0 if lived_s >= HEALTHY_S else min(RESTART_PAUSE_MAX_S, max(0.1, slot.pause_s * 2))
        slot.start_at_s = time.monotonic() + slot.pause_s
        slot.process = None
        self._died()
        log.warning("worker died", worker=slot.owner, worker_pid=process.pid, exit_code=process.returncode)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        self._expire_leases(slot)

    def _expire_leases(self, slot: _Slot) -> None:
        """Let others take over at once what a dead worker held, instead of when its lease runs out."""
        try:
            self._database.write(lambda tx: operation_rows.expire_leases(tx, owner=slot.owner))
        except Exception as error:  # the lease itself is the guarantee: this only saves time
            log.warning("lease of a dead worker not ended early", worker=slot.owner, reason=str(error))


def clear_abandoned(store: Store) -> None:
    """Clear away what killed processes left of their work; what resists waits for the next time."""
    try:
        store.clear_abandoned()
    except DataplaneError as error:
        log.warning("leftovers not cleared", reason=str(error))


def watched_workers(
    database: Database, store: Store, config: WorkConfig, metrics: Metrics, traces: Tracing | None
) -> Supervisor:
    """Return the workers that `config` asks for, whose figures go to `metrics` and whose operations become traces.

    What a dead one leaves in the store is cleared away, and so is what earlier ones have left.
    """

    def reported(report: Report) -> None:
        metrics.operation_ended(report)
        if traces is not None:
            traces.operation_ended(report)

    def died() -> None:
        metrics.worker_died()
        clear_abandoned(store)

    clear_abandoned(store)
    supervisor = Supervisor(database, config.for_worker, workers=config.workers, reported=reported, died=died)
    metrics.workers_are(supervisor.count)
    return supervisor
