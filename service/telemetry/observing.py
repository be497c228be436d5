"""Turns the end of a worker's turn on an operation into a report, by what the catalogue says of it then."""

from __future__ import annotations

from google.rpc import code_pb2, status_pb2

from service.catalog import operation_rows
from service.catalog.database import Database
from service.model import Operation
from service.telemetry.reports import Report, Reporter
from service.telemetry.stage_clock import RetryCounter, TimedProgress


class Observer:
    """Reports each turn of one worker."""

    def __init__(self, database: Database, reporter: Reporter) -> None:
        self._database = database
        self._reporter = reporter
        self._retries = RetryCounter()
        self._retries.install()

    def begin(self) -> TimedProgress:
        """Return the progress of the next operation."""
        self._retries.take()
        return TimedProgress()

    def end(self, operation: Operation, progress: TimedProgress) -> None:
        """Report what the turn on `operation` came to."""
        with self._database.read() as tx:
            now = operation_rows.get(tx, operation.id)
        outcome, code = _outcome(operation, now)
        self._reporter.send(
            Report(
                outcome=outcome,
                code=code,
                seconds=progress.snapshot().seconds,
                stages=progress.stage_seconds(),
                bytes=progress.bytes_by_kind(),
                retries=self._retries.take(),
            )
        )


def _outcome(mine: Operation, now: Operation | None) -> tuple[str, int]:
    """Return the word and the gRPC code for an operation that was claimed as `mine` and is `now` so."""
    if now is None or now.epoch != mine.epoch:
        return "lost", code_pb2.ABORTED
    if not now.done:
        return "returned", code_pb2.UNAVAILABLE
    if now.error is None:
        return "done", code_pb2.OK
    code = status_pb2.Status.FromString(now.error).code
    return ("cancelled" if code == code_pb2.CANCELLED else "failed"), code
