"""Forgets operations that ended long ago, and the idempotency keys they were made under."""

from __future__ import annotations

import threading

from service.catalog import operation_rows
from service.catalog.database import Database
from service.log import get_logger
from service.model import now_us

KEPT_S = 14 * 24 * 3600
"""How long an operation can be read after its end."""

PAUSE_S = 60.0
BATCH_SIZE = 200

log = get_logger(__name__)


def prune(database: Database) -> int:
    """Forget what ended more than 14 days ago, a little at a time so that nobody waits long; return how much."""
    forgotten = 0
    while True:
        before_us = now_us() - KEPT_S * 1_000_000
        count = database.write(lambda tx: operation_rows.prune(tx, before_us=before_us, limit=BATCH_SIZE))  # noqa: B023
        forgotten += count
        if count < BATCH_SIZE:
            return forgotten


class Pruner:
    """A thread that prunes now and then, from the start until it is stopped."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pruner", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the batch that is being worked on."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                count = prune(self._database)
            except Exception as error:  # the next time may go well, and nothing depends on this one
                log.warning("operations not pruned", reason=str(error))
            else:
                if count:
                    log.info("operations pruned", count=count)
            if self._stopping.wait(PAUSE_S):
                return
