"""What a heartbeat does to the work it watches, and how a source is opened without waiting for it for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.rpc import code_pb2, status_pb2

from dataplane import Progress
from dataplane.errors import Cancelled, SourceUnavailable
from service.model import Operation
from service.operations import heartbeat as heartbeats
from service.operations.heartbeat import Heartbeat, Stop
from service.operations.opening import open_unless_cancelled
from tests.service.test_operations import CALLER, Catalogue


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalogue]:
    monkeypatch.setattr(heartbeats, "BEAT_S", 0.01)
    monkeypatch.setattr(heartbeats, "CANCEL_GRACE_S", 0.05)
    made = Catalogue(tmp_path)
    yield made
    made.database.close()


def watched(
    catalogue: Catalogue, operation: Operation, draining: threading.Event | None = None
) -> tuple[Heartbeat, threading.Event]:
    heartbeat = Heartbeat(catalogue.database, operation, Progress(), draining or threading.Event(), catalogue.contents)
    interrupted = threading.Event()
    heartbeat.interrupt = interrupted.set
    return heartbeat, interrupted


def test_heartbeat_stops_work_that_was_taken_over(catalogue: Catalogue) -> None:
    catalogue.create()
    first = catalogue.claimed("a", -1)
    catalogue.claimed("b")
    heartbeat, interrupted = watched(catalogue, first)
    with heartbeat:
        assert interrupted.wait(5)
    assert (heartbeat.reason, heartbeat.cancelled.is_set()) == (Stop.LOST, True)


def test_heartbeat_stops_work_of_a_worker_that_drains(catalogue: Catalogue) -> None:
    catalogue.create()
    draining = threading.Event()
    heartbeat, interrupted = watched(catalogue, catalogue.claimed(), draining)
    with heartbeat:
        draining.set()
        assert interrupted.wait(5)
    assert heartbeat.reason is Stop.DRAINED


def test_heartbeat_ends_a_cancelled_operation_whose_work_hangs(catalogue: Catalogue) -> None:
    catalogue.create()
    operation = catalogue.claimed()
    heartbeat, interrupted = watched(catalogue, operation)
    ended = None
    with heartbeat:
        catalogue.operations.cancel(operation.id, CALLER)
        assert interrupted.wait(5)
        for _ in range(500):  # the work does nothing: it hangs
            ended = catalogue.operations.get(operation.id, CALLER)
            if ended.done:
                break
            threading.Event().wait(0.01)
    assert ended is not None
    assert ended.error is not None
    assert status_pb2.Status.FromString(ended.error).code == code_pb2.CANCELLED
    assert catalogue.status(operation.resource_id) is None


def test_heartbeat_stops_work_when_a_fresh_url_has_come(catalogue: Catalogue) -> None:
    catalogue.create()
    operation = catalogue.claimed()
    heartbeat, interrupted = watched(catalogue, operation)
    with heartbeat:
        assert not interrupted.wait(0.2)
        catalogue.operations.replace_source(operation.id, "https://h/b", CALLER)
        assert interrupted.wait(5)
    assert heartbeat.reason is Stop.REFRESHED


def test_heartbeat_that_is_not_needed_any_more_changes_nothing(catalogue: Catalogue) -> None:
    catalogue.create()
    operation = catalogue.claimed()
    heartbeat, interrupted = watched(catalogue, operation)
    with heartbeat:
        pass
    assert not interrupted.is_set()
    assert not catalogue.operations.get(operation.id, CALLER).done


class FakeSource:
    """Only knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


def test_source_that_opens_is_returned() -> None:
    source = FakeSource()
    given: Any = source
    assert open_unless_cancelled(lambda: given, threading.Event()) is given
    assert not source.closed.is_set()


def test_source_that_fails_to_open_raises_its_error() -> None:
    def fail() -> Any:
        raise SourceUnavailable("no")

    with pytest.raises(SourceUnavailable):
        open_unless_cancelled(fail, threading.Event())


def test_source_that_opens_after_a_cancel_is_closed() -> None:
    source: Any = FakeSource()
    answer, cancelled = threading.Event(), threading.Event()

    def slow() -> Any:
        cancelled.set()
        answer.wait(5)
        return source

    with pytest.raises(Cancelled):
        open_unless_cancelled(slow, cancelled)
    answer.set()
    assert source.closed.wait(5)
