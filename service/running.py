"""What every long-running verb does: heed signals, keep workers running, serve metrics, and end in good order."""

from __future__ import annotations

import signal
import sys
import threading
from functools import partial

from dataplane import Store
from service import log as logs
from service import waiting
from service.catalog.database import Database
from service.config import WorkConfig
from service.supervisor import watched_workers
from service.telemetry import queue, tracing
from service.telemetry.metrics import Metrics

WORKER_GRACE_S = 10.0

log = logs.get_logger(__name__)


class StopSignals:
    """SIGTERM and SIGINT, noted from the moment this is made."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def wait(self, ready: str) -> None:
        """Print the line that says what is ready, and return at the first signal."""
        sys.stdout.write(f"{ready}\n")
        sys.stdout.flush()
        waiting.wait_for(self._stopping)
        log.info("draining", signal=signal.Signals(self._received[0]).name)

    def exit_code(self) -> int:
        """Return 130 after SIGINT, else 0."""
        return 130 if self._received[0] == signal.SIGINT else 0

    def _stop(self, number: int, _frame: object) -> None:
        self._received.append(number)
        self._stopping.set()


class Crew:
    """The worker processes of one data folder, and what is counted and traced of them and beside them."""

    def __init__(self, database: Database, store: Store, config: WorkConfig) -> None:
        """Serve metrics, if they are asked for; workers start later. Raises IoFailed when the address is taken."""
        self.metrics = Metrics()
        self.metrics.watch_queue(partial(queue.figures, database))
        self.tracing = tracing.start() if config.traces else None
        self._supervisor = watched_workers(database, store, config, self.metrics, self.tracing)
        self._stop_metrics = self.metrics.listen(config.metrics_listen) if config.metrics_listen else None

    def start(self) -> None:
        """Start the workers."""
        self._supervisor.start()

    def drain(self) -> None:
        """Let the workers finish their window and give their operations back, for 10 seconds at most."""
        self._supervisor.drain(WORKER_GRACE_S)

    def close(self) -> None:
        """End metrics and traces, after everything that they tell of."""
        if self._stop_metrics is not None:
            self._stop_metrics()
        if self.tracing is not None:
            self.tracing.close()
