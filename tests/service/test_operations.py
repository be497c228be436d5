"""Claims, leases, epochs and ends of operations, in the catalogue alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from google.rpc import code_pb2, status_pb2
from sqlalchemy.engine import Connection

from dataplane.errors import NotFound, StoreIncompatible
from service.auth import EVERYTHING, Caller
from service.catalog import operation_rows, schema
from service.catalog.database import Database
from service.catalog.resource_rows import IMAGES
from service.faults import LeaseLost
from service.images import Images
from service.model import ImageSpec, Operation, Status, now_us
from service.operations import ending
from service.operations.use_cases import Operations
from service.origin import Origin
from service.sealing import Sealer
from tests.service.control import CONTENT, FakeContents

SPEC = ImageSpec(
    folder_id="f1",
    name="disk",
    description="",
    labels={},
    family="",
    min_disk_size=0,
    product_ids=(),
    os={"type": "LINUX"},
    pooled=False,
    hardware_generation=None,
)
CALLER = Caller("me", EVERYTHING)
ME = Origin(caller=CALLER)
FAILURE = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="bad source")


class Catalogue:
    """One catalogue and the steps that servers and workers take in it."""

    def __init__(self, folder: Path) -> None:
        self.database = Database.at_path(folder / "catalogue.sqlite3")
        self.database.write(schema.create_tables)
        self.contents, sealer = FakeContents(), Sealer.at_path(folder / "key")
        self.images = Images(self.database, sealer, self.contents)
        self.operations = Operations(self.database, sealer, self.contents)

    def create(self) -> Operation:
        return self.create_named("disk")

    def create_named(self, name: str) -> Operation:
        return self.images.create(replace(SPEC, name=name), "https://h/a?token=hush", ME)

    def claim(self, owner: str = "w", lease_us: int = 60_000_000) -> Operation | None:
        return self.database.write(lambda tx: operation_rows.claim(tx, owner=owner, now_us=now_us(), lease_us=lease_us))

    def claimed(self, owner: str = "w", lease_us: int = 60_000_000) -> Operation:
        operation = self.claim(owner, lease_us)
        assert operation is not None
        return operation

    def beat(self, operation: Operation, lease_us: int = 60_000_000) -> bool | None:
        beat = self.database.write(
            lambda tx: operation_rows.heartbeat(
                tx,
                operation.id,
                epoch=operation.epoch,
                now_us=now_us(),
                lease_us=lease_us,
                progress={"stage": "reading"},
            )
        )
        return beat.cancel_requested if beat is not None else None

    def succeed(self, operation: Operation, pinned: list[str]) -> None:
        def work(tx: Connection) -> None:
            ending.succeed(
                tx,
                operation,
                content=CONTENT,
                values={"min_disk_size": 1},
                progress={},
                pin=lambda _tx: pinned.append(operation.resource_id),
                contents=self.contents,
            )

        self.database.write(work)

    def fail(self, operation: Operation) -> bool:
        return self.database.write(
            lambda tx: ending.undo(tx, operation, epoch=operation.epoch, error=FAILURE, contents=self.contents)
        )

    def status(self, image_id: str) -> Status | None:
        try:
            return self.images.get(image_id, CALLER).status
        except NotFound:
            return None


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    made = Catalogue(tmp_path)
    yield made
    made.database.close()


EXPIRED = -1
"""A lease that has run out when it is taken, in microseconds."""


def test_claim_takes_the_oldest_once(catalogue: Catalogue) -> None:
    first = catalogue.create()
    catalogue.create_named("b")
    claimed = catalogue.claimed()
    second = catalogue.claimed()
    assert claimed.id == first.id
    assert second.id != first.id
    assert (claimed.epoch, claimed.attempts) == (1, 1)
    assert catalogue.claim() is None


def test_claim_by_many_threads_gives_each_operation_to_one(catalogue: Catalogue) -> None:
    for index in range(12):
        catalogue.create_named(f"n{index}")
    taken: list[str] = []

    def work() -> None:
        while (operation := catalogue.claim()) is not None:
            taken.append(operation.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 12


def test_lease_that_ran_out_is_taken_over(catalogue: Catalogue) -> None:
    catalogue.create()
    first = catalogue.claimed("a", EXPIRED)
    second = catalogue.claimed("b")
    assert (second.id, second.epoch, second.attempts) == (first.id, 2, 2)


def test_heartbeat_keeps_others_away_and_notes_progress(catalogue: Catalogue) -> None:
    catalogue.create()
    operation = catalogue.claimed("a", EXPIRED)
    assert catalogue.beat(operation) is False
    assert catalogue.claim("b") is None
    seen = catalogue.operations.get(operation.id, CALLER)
    assert seen.progress == {"stage": "reading"}
    assert seen.modified_at_us > seen.created_at_us


def test_heartbeat_of_an_older_epoch_is_told(catalogue: Catalogue) -> None:
    catalogue.create()
    first = catalogue.claimed("a", EXPIRED)
    catalogue.claimed("b")
    assert catalogue.beat(first) is None


def test_heartbeat_carries_a_cancel(catalogue: Catalogue) -> None:
    catalogue.create()
    operation = catalogue.claimed()
    catalogue.operations.cancel(operation.id, CALLER)
    assert catalogue.beat(operation) is True


def test_success_of_an_older_epoch_changes_nothing(catalogue: Catalogue) -> None:
    catalogue.create()
    first = catalogue.claimed("a", EXPIRED)
    second = catalogue.claimed("b")
    pinned: list[str] = []
    with pytest.raises(LeaseLost):
        catalogue.succeed(first, pinned)
    assert pinned == []
    assert catalogue.status(first.resource_id) is Status.CREATING
    catalogue.succeed(second, pinned)
    assert pinned == [first.resource_id]
    assert catalogue.status(first.resource_id) is Status.READY


def test_success_after_a_cancel_is_refused(catalogue: Catalogue) -> None:
    catalogue.create()
    operation = catalogue.claimed()
    catalogue.operations.cancel(operation.id, CALLER)
    with pytest.raises(LeaseLost):
        catalogue.succeed(operation, [])
    assert catalogue.status(operation.resource_id) is Status.CREATING


def test_failed_pin_leaves_the_image_creating(catalogue: Catalogue) -> None:
    catalogue.create()
    operation = catalogue.claimed()

    def pin(_tx: Connection) -> None:
        raise NotFound("no")

    with pytest.raises(NotFound):
        catalogue.database.write(
            lambda tx: ending.succeed(
                tx,
                operation,
                content=CONTENT,
                values={"min_disk_size": 1},
                progress={},
                pin=pin,
                contents=catalogue.contents,
            )
        )
    assert catalogue.status(operation.resource_id) is Status.CREATING
    assert not catalogue.operations.get(operation.id, CALLER).done


def test_failure_removes_the_image_and_frees_its_name(catalogue: Catalogue) -> None:
    catalogue.create()
    operation = catalogue.claimed()
    assert catalogue.fail(operation)
    assert catalogue.contents.forgotten == [operation.id]
    ended = catalogue.operations.get(operation.id, CALLER)
    assert (ended.done, ended.response, ended.source) == (True, None, None)
    assert ended.error is not None
    assert status_pb2.Status.FromString(ended.error) == FAILURE
    assert catalogue.status(operation.resource_id) is None
    catalogue.create()


def test_failure_of_an_older_epoch_changes_nothing(catalogue: Catalogue) -> None:
    catalogue.create()
    first = catalogue.claimed("a", EXPIRED)
    catalogue.claimed("b")
    assert not catalogue.fail(first)
    assert catalogue.status(first.resource_id) is Status.CREATING


def test_finished_operation_stays_as_it_is(catalogue: Catalogue) -> None:
    catalogue.create()
    operation = catalogue.claimed("a", EXPIRED)
    catalogue.succeed(operation, [])
    assert not catalogue.fail(operation)
    assert catalogue.claim() is None
    assert catalogue.operations.cancel(operation.id, CALLER).response is not None


def test_release_gives_the_operation_back_without_counting(catalogue: Catalogue) -> None:
    catalogue.create()
    first = catalogue.claimed()
    catalogue.database.write(lambda tx: operation_rows.release(tx, first.id, epoch=first.epoch))
    again = catalogue.claimed("b")
    assert (again.id, again.attempts) == (first.id, 1)


def test_leases_of_a_dead_worker_end_at_once(catalogue: Catalogue) -> None:
    catalogue.create()
    catalogue.claimed("dead")
    assert catalogue.database.write(lambda tx: operation_rows.expire_leases(tx, owner="dead")) == 1
    assert catalogue.claimed("b").epoch == 2


def test_cancel_of_an_orphan_ends_it_and_fences_its_worker(catalogue: Catalogue) -> None:
    catalogue.create()
    orphan = catalogue.claimed("a", EXPIRED)
    assert catalogue.operations.cancel(orphan.id, CALLER).done
    assert catalogue.contents.forgotten == [orphan.id]
    assert catalogue.beat(orphan) is None
    with pytest.raises(LeaseLost):
        catalogue.succeed(orphan, [])


def test_source_is_sealed_and_gone_when_done(catalogue: Catalogue, tmp_path: Path) -> None:
    created = catalogue.create()
    operation = catalogue.claimed()
    assert operation.source is not None
    assert b"hush" not in operation.source
    assert Sealer.at_path(tmp_path / "key").unseal(operation.source) == "https://h/a?token=hush"
    catalogue.succeed(operation, [])
    assert catalogue.operations.get(created.id, CALLER).source is None
    catalogue.database.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("catalogue.sqlite3*"))
    assert b"hush" not in stored


def test_finish_wants_exactly_one_result(catalogue: Catalogue) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        catalogue.database.write(lambda tx: operation_rows.finish(tx, "o", epoch=1, now_us=1))


def test_write_is_rolled_back_when_it_raises(catalogue: Catalogue) -> None:
    operation = catalogue.create()

    def work(tx: Connection) -> None:
        IMAGES.delete(tx, operation.resource_id, status=Status.CREATING)
        raise NotFound("stop")

    with pytest.raises(NotFound):
        catalogue.database.write(work)
    assert catalogue.status(operation.resource_id) is Status.CREATING


def test_readers_do_not_wait_for_a_writer(catalogue: Catalogue) -> None:
    operation = catalogue.create()

    def work(tx: Connection) -> None:
        IMAGES.delete(tx, operation.resource_id, status=Status.CREATING)
        assert catalogue.images.get(operation.resource_id, CALLER).id == operation.resource_id

    catalogue.database.write(work)


def test_schema_of_another_version_is_refused(catalogue: Catalogue) -> None:
    catalogue.database.write(lambda tx: tx.execute(schema.versions.update().values(version=99)))
    with pytest.raises(StoreIncompatible, match="schema version 99"):
        catalogue.database.write(schema.create_tables)
