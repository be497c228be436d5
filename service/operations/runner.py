"""Runs one claimed operation: keeps its lease, and ends it one way or another."""

from __future__ import annotations

import threading

from google.rpc import status_pb2
from sqlalchemy.engine import Connection

from dataplane import Progress, Store
from dataplane.errors import Cancelled, DataplaneError, SourceForbidden
from service import status
from service.catalog import operation_rows
from service.catalog.database import Database
from service.contents import StoreContents
from service.disk_folders import DiskFolders
from service.faults import LeaseLost
from service.log import get_logger
from service.model import Operation, now_us
from service.operations import ending
from service.operations.heartbeat import LEASE_S, Heartbeat, Stop
from service.operations.making import Maker
from service.operations.sources import SourcePolicy, Sources
from service.sealing import Sealer
from service.telemetry.observing import Observer
from service.telemetry.stage_clock import TimedProgress

__all__ = ["Runner", "SourcePolicy"]

ATTEMPTS_MAX = 3
"""Workers that one operation may take down before it is given up."""

log = get_logger(__name__)


class WorkerCrashed(DataplaneError):
    """An operation ended the process of every worker that tried it."""


class Runner:
    """Claims and runs operations, one at a time."""

    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        folders: DiskFolders,
        sealer: Sealer,
        policy: SourcePolicy,
        owner: str,
        draining: threading.Event,
        observer: Observer | None = None,
    ) -> None:
        self._database = database
        self._contents = StoreContents(store)
        self._sources = Sources(database, sealer, policy)
        self._maker = Maker(database, store, folders, self._sources)
        self._owner = owner
        self._draining = draining
        self._observer = observer

    def run_one(self) -> bool:
        """Run the waiting operation whose turn it is to its end; False when nothing waits."""
        operation = self._claim()
        if operation is None:
            return False
        log.info(
            "operation claimed", operation_id=operation.id, resource_id=operation.resource_id, epoch=operation.epoch
        )
        begun: Operation | None = operation
        while begun is not None:
            begun = self._run_until_refreshed(begun)
        return True

    def _run_until_refreshed(self, operation: Operation) -> Operation | None:
        """Run the operation to its end, or until a fresh URL comes; return it then, to begin again."""
        progress = self._observer.begin() if self._observer is not None else Progress()
        try:
            with Heartbeat(self._database, operation, progress, self._draining, self._contents) as heartbeat:
                self._run(operation, progress, heartbeat)
        except LeaseLost as error:
            log.warning("operation lost", operation_id=operation.id, reason=str(error))
            return None
        finally:
            if self._observer is not None and isinstance(progress, TimedProgress):
                self._observer.end(operation, progress)
        if heartbeat.reason is not Stop.REFRESHED:
            return None
        current = self._current(operation)
        return current if current is not None and not current.done else None

    def _claim(self) -> Operation | None:
        with self._database.read() as tx:
            if not operation_rows.any_waiting(tx, now_us=now_us()):
                return None
        return self._database.write(
            lambda tx: operation_rows.claim(tx, owner=self._owner, now_us=now_us(), lease_us=int(LEASE_S * 1_000_000))
        )

    def _run(self, operation: Operation, progress: Progress, heartbeat: Heartbeat) -> None:
        try:
            if operation.cancel_requested:
                raise Cancelled("cancelled before it began")
            if operation.attempts > ATTEMPTS_MAX:
                raise WorkerCrashed(f"it ended its worker process {ATTEMPTS_MAX} times and was given up")
            self._maker.make(operation, progress, heartbeat)
        except LeaseLost:
            self._end_lost(operation)
        except Cancelled:
            self._end_stopped(operation, heartbeat.reason or Stop.CANCELLED)
        except Exception as error:
            if heartbeat.reason is not None:  # whatever it says, it comes from being interrupted
                self._end_stopped(operation, heartbeat.reason)
                return
            if not status.is_foreseen(error):
                log.error("operation failed unforeseen", error=error, operation_id=operation.id)
            if isinstance(error, SourceForbidden) and self._sources.park(operation):
                log.info("operation waits for a fresh URL", operation_id=operation.id, reason=str(error))
                return
            self._end_failed(operation, error)
        else:
            log.info("operation done", operation_id=operation.id, resource_id=operation.resource_id)

    def _end_lost(self, operation: Operation) -> None:
        """A cancel that came during the last step looks like a lost lease: then the operation is still ours to end."""
        ended = self._undo(operation, ending.CANCELLED) if self._cancel_requested(operation) else False
        log.info("operation ended by others", operation_id=operation.id, cancelled=ended)

    def _end_stopped(self, operation: Operation, reason: Stop) -> None:
        if reason is Stop.CANCELLED:
            self._undo(operation, ending.CANCELLED)
        elif reason is Stop.LOST:
            self._leave_nothing(operation)
        elif reason is Stop.DRAINED:
            self._database.write(lambda tx: operation_rows.release(tx, operation.id, epoch=operation.epoch))
        log.info("operation stopped", operation_id=operation.id, resource_id=operation.resource_id, reason=reason.value)

    def _end_failed(self, operation: Operation, error: Exception) -> None:
        failure = status.status_of(error, trace_id=f"operation {operation.id}")
        if self._undo(operation, failure):
            log.info("operation failed", operation_id=operation.id, code=failure.code, reason=failure.message)
        else:  # it had ended: what went wrong came after that, and the next snapshot of the disk makes up for it
            log.warning("operation ended, but not all is tidy", operation_id=operation.id, reason=str(error))

    def _undo(self, operation: Operation, failure: status_pb2.Status) -> bool:
        return self._database.write(
            lambda tx: ending.undo(tx, operation, epoch=operation.epoch, error=failure, contents=self._contents)
        )

    def _leave_nothing(self, operation: Operation) -> None:
        """Give up what this worker has kept of a lost operation, unless another one is going on with it."""

        def work(tx: Connection) -> None:
            current = operation_rows.get(tx, operation.id)
            if current is None or current.done:
                self._contents.forget_kept(tx, operation.id)

        self._database.write(work)

    def _cancel_requested(self, operation: Operation) -> bool:
        current = self._current(operation)
        return current is not None and current.cancel_requested

    def _current(self, operation: Operation) -> Operation | None:
        """Return the operation as it is now, or None when it is not ours any more."""
        with self._database.read() as tx:
            current = operation_rows.get(tx, operation.id)
        return current if current is not None and current.epoch == operation.epoch else None
