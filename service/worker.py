"""A worker process: claims operations and runs them until it is told to stop or its server is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from dataplane import Store
from dataplane.errors import DataplaneError
from service import log as logs
from service.catalog.database import Database
from service.config import Sandbox, WorkerConfig
from service.disk_folders import DiskFolders
from service.operations.runner import Runner, SourcePolicy
from service.sandbox import process_limits
from service.sandbox.addresses import refuse_link_local
from service.sandbox.confining import confine
from service.sealing import KEY_FILE, Sealer
from service.telemetry.observing import Observer
from service.telemetry.reports import Reporter

IDLE_S = 0.15
"""How long an idle worker waits before it looks for work again."""

NICENESS = 10
"""Imports take what processors have left when calls are served: a call waits for its answer, an import for minutes."""

log = logs.get_logger(__name__)


def main() -> int:
    """Run a worker. Its configuration is the first line of standard input; the end of input means: stop."""
    logs.configure()
    draining = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: draining.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the server, which then drains us
    try:
        config = WorkerConfig.from_line(sys.stdin.readline())
        os.nice(NICENESS)
        _confine(config)
        threading.Thread(target=_watch_server, args=(draining,), name="server-watch", daemon=True).start()
        with Store.open(Path(config.store_path)) as store:
            work(config, store, draining)
    except DataplaneError as error:
        log.error("worker cannot work", reason=str(error))
        return 1
    except Exception as error:  # the server starts a fresh worker, and the lease hands its operation over
        log.error("worker failed unforeseen", error=error)
        return 1
    return 0


def _confine(config: WorkerConfig) -> None:
    """Give up what imports do not need, before the first other thread. Raises UsageError when too little is refused."""
    refuse_link_local(config.allow_source)
    if config.sandbox == Sandbox.OFF:
        process_limits.apply(memory=config.memory)
        return
    held = confine(
        memory=config.memory,
        read=(Path(config.data_dir) / KEY_FILE,),
        change=(Path(config.store_path), Path(config.disks_path)),
        unix_sockets=True,  # the control socket of a disk that another process has open
        required=config.sandbox == Sandbox.REQUIRE,
    )
    for reason in held.missing:
        log.warning("worker confined less than it could be", reason=reason)
    log.info("worker confined", layers=", ".join(held.layers))


def work(config: WorkerConfig, store: Store, draining: threading.Event) -> None:
    """Run operations until `draining` is set."""
    database = Database.beside(store)
    runner = Runner(
        database=database,
        store=store,
        folders=DiskFolders(Path(config.disks_path), store),
        sealer=Sealer.at_path(Path(config.data_dir) / KEY_FILE),
        policy=SourcePolicy(allow=config.allow_source, allow_http=config.allow_http),
        owner=config.owner,
        draining=draining,
        observer=Observer(database, Reporter()),
    )
    log.info("worker started", worker=config.owner)
    try:
        while not draining.is_set():
            if not runner.run_one():
                draining.wait(IDLE_S)
    finally:
        database.close()
    log.info("worker stopped", worker=config.owner)


def _watch_server(draining: threading.Event) -> None:
    """Wait for the server to close our standard input, on purpose or by dying."""
    while os.read(0, 4096):  # not through sys.stdin: its lock, held by a blocked thread, aborts the interpreter's exit
        pass
    draining.set()


if __name__ == "__main__":
    sys.exit(main())
