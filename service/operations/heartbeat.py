"""Keeps a claimed operation alive while its work runs in another thread, and carries a cancel to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from enum import Enum
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from dataplane import Progress
from dataplane.errors import DataplaneError
from service.catalog import operation_rows
from service.catalog.database import Database
from service.contents import Contents
from service.log import get_logger
from service.model import Json, Operation, now_us
from service.operations import ending

LEASE_S = 6.0
"""Without a heartbeat for this long, another worker takes the operation over."""

BEAT_S = 0.4
CANCEL_GRACE_S = 0.5
"""How long the work may take to notice a cancel before the operation ends without waiting for it."""

log = get_logger(__name__)


class Stop(Enum):
    """Why the work was told to stop."""

    CANCELLED = "cancelled"
    LOST = "lost"  # another worker has it, or may have it
    REFRESHED = "refreshed"  # a fresh URL has come: the work begins again with it
    DRAINED = "drained"  # this worker is going away; another one will continue


class Heartbeat:
    """A thread that renews the lease of one operation until the block ends.

    `cancelled` is set, and `reason` says why, when the work has to stop. Work whose lease cannot be renewed is stopped
    to save effort; what keeps two workers from both committing is the epoch, which the last transaction checks.
    """

    def __init__(
        self,
        database: Database,
        operation: Operation,
        progress: Progress,
        draining: threading.Event,
        contents: Contents,
    ) -> None:
        self.cancelled = threading.Event()
        self.reason: Stop | None = None
        self.interrupt: Callable[[], None] = _nothing
        """Called when the work has to stop, to end reads that wait for a slow source."""
        self._database = database
        self._operation = operation
        self._progress = progress
        self._draining = draining
        self._contents = contents
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"heartbeat-{operation.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        renewed_s = time.monotonic()
        while not self._ended.wait(BEAT_S):
            if self._draining.is_set():
                return self._stop(Stop.DRAINED)
            asked_s = time.monotonic()
            try:
                beat = self._beat()
            except (SQLAlchemyError, DataplaneError) as error:
                log.warning("heartbeat failed", operation_id=self._operation.id, reason=str(error))
                if time.monotonic() - renewed_s > LEASE_S / 2:
                    return self._stop(Stop.LOST)
                continue
            renewed_s = asked_s
            if beat is None:
                return self._stop(Stop.LOST)
            if beat.cancel_requested:
                return self._cancel()
            if beat.has_fresh_source:
                return self._stop(Stop.REFRESHED)
        return None

    def _beat(self) -> operation_rows.Beat | None:
        progress = snapshot(self._progress)
        return self._database.write(
            lambda tx: operation_rows.heartbeat(
                tx,
                self._operation.id,
                epoch=self._operation.epoch,
                now_us=now_us(),
                lease_us=int(LEASE_S * 1_000_000),
                progress=progress,
            ),
            durable=False,  # what matters of it is seen at once; after a loss of power nobody works on anything
        )

    def _cancel(self) -> None:
        """Stop the work; when it hangs, on a slow source say, end the operation in its place."""
        self._stop(Stop.CANCELLED)
        if self._ended.wait(CANCEL_GRACE_S):
            return
        try:
            ended = self._database.write(
                lambda tx: ending.undo(
                    tx,
                    self._operation,
                    epoch=self._operation.epoch,
                    error=ending.CANCELLED,
                    contents=self._contents,
                )
            )
        except (SQLAlchemyError, DataplaneError) as error:  # the work itself ends the operation once it wakes up
            log.warning("cancel not recorded", operation_id=self._operation.id, reason=str(error))
        else:
            log.info("cancelled while the work hangs", operation_id=self._operation.id, ended=ended)

    def _stop(self, reason: Stop) -> None:
        self.reason = reason
        self.cancelled.set()
        self.interrupt()


def _nothing() -> None:
    """Do nothing."""


def snapshot(progress: Progress) -> Json:
    """Return the progress as the catalogue keeps it: bytes, seconds and bytes per second."""
    return asdict(progress.snapshot())
