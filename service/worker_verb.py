"""`dataplane worker`: more worker processes for a data folder that a server, on this machine or another, uses."""

from __future__ import annotations

import contextlib

from dataplane import Store
from service import log as logs
from service.catalog.database import Database
from service.config import WorkConfig
from service.running import Crew, StopSignals
from service.settings import Settings


def run(config: WorkConfig, settings: Settings) -> int:
    """Keep workers running until SIGTERM or SIGINT; return the exit code, 0 or 130.

    Raises StoreMissing when no server has made the store yet.
    """
    signals = StopSignals()
    logs.configure_from(settings)
    with Store.open(config.store_path) as store, contextlib.closing(Database.beside(store)) as database:
        crew = Crew(database, store, config)
        crew.start()
        try:
            signals.wait(f"working on {config.data_dir}")
        finally:
            crew.drain()
            crew.close()
    return signals.exit_code()
