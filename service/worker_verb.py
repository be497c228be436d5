"""`dataplane worker`: more worker processes for a data folder that a server, on this machine or another, uses."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from functools import partial

from dataplane import Store
from service import log as logs
from service import waiting
from service.catalog.database import Database
from service.config import WorkConfig
from service.settings import Settings
from service.supervisor import watched_workers
from service.telemetry import queue, tracing
from service.telemetry.metrics import Metrics

WORKER_GRACE_S = 10.0

log = logs.get_logger(__name__)


def run(config: WorkConfig, settings: Settings) -> int:
    """Keep workers running until SIGTERM or SIGINT; return the exit code, 0 or 130.

    Raises StoreMissing when no server has made the store yet.
    """
    stopping = threading.Event()
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    logs.configure_from(settings)
    with Store.open(config.store_path) as store, contextlib.closing(Database.beside(store)) as database:
        metrics = Metrics()
        metrics.watch_queue(partial(queue.figures, database))
        traces = tracing.start() if config.traces else None
        supervisor = watched_workers(database, store, config, metrics, traces)
        stop_metrics = metrics.listen(config.metrics_listen) if config.metrics_listen else None
        supervisor.start()
        try:
            sys.stdout.write(f"working on {config.data_dir}\n")
            sys.stdout.flush()
            waiting.wait_for(stopping)
            log.info("draining", signal=signal.Signals(received[0]).name)
        finally:
            supervisor.drain(WORKER_GRACE_S)
            if stop_metrics is not None:
                stop_metrics()
            if traces is not None:
                traces.close()
    return 130 if received[0] == signal.SIGINT else 0
