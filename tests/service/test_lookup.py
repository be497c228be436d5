"""Reading one row by its key gives what a select in a transaction gives, and holds on to nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from service.auth import ANONYMOUS
from service.catalog import operation_rows, schema
from service.catalog.database import Database
from service.catalog.lookup import KEY
from service.catalog.resource_rows import IMAGES
from service.model import Image, ImageSpec, OperationKind, Resource, Status
from service.operations.beginning import new_operation
from service.origin import Origin
from tests.postgres import chosen_database
from tests.service.control import CONTENT

SPEC = ImageSpec(
    folder_id="f1",
    name="name",
    description="Größe",
    labels={"a": "b"},
    family="",
    min_disk_size=4 << 40,
    product_ids=("p1", "p2"),
    os={"type": "WINDOWS", "nvidia": {"driver": "550"}},
    pooled=True,
    hardware_generation={"generation2_features": {}},
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = chosen_database()
    opened = Database.at_path(tmp_path / "c.sqlite3") if url is None else Database.at_url(url)
    opened.write(schema.create_tables)
    yield opened
    opened.close()


def added(database: Database, image_id: str, **fields: Any) -> Image:
    ready = Resource(id=image_id, spec=SPEC, status=Status.READY, created_at_us=2**50, content=CONTENT)
    image = replace(ready, **fields)
    database.write(lambda tx: IMAGES.insert(tx, image))
    return image


def change(database: Database, **values: str) -> None:
    database.write(lambda tx: IMAGES.update(tx, "one", values))


def test_images_are_what_a_transaction_reads(database: Database) -> None:
    ready = added(database, "ready")
    fresh = replace(SPEC, name="", hardware_generation=None)
    creating = added(database, "creating", spec=fresh, status=Status.CREATING, content=None)
    with database.read() as tx:
        for image in (ready, creating):
            assert IMAGES.look_up(database.lookup, image.id) == IMAGES.get(tx, image.id) == image
    assert IMAGES.look_up(database.lookup, "none") is None


@pytest.mark.parametrize("response", [None, b"\0\xff"])
def test_operations_are_what_a_transaction_reads(database: Database, response: bytes | None) -> None:
    operation = new_operation(
        OperationKind.CREATE_IMAGE,
        resource_id="i",
        folder_id="f1",
        origin=Origin(caller=ANONYMOUS),
        source=b"sealed",
        response=response,
    )
    database.write(lambda tx: operation_rows.insert(tx, operation))
    with database.read() as tx:
        assert operation_rows.get(tx, operation.id) == operation
    assert operation_rows.look_up(database.lookup, operation.id) == operation
    assert operation_rows.look_up(database.lookup, "none") is None


def test_each_look_sees_what_was_committed_before_it(database: Database) -> None:
    added(database, "one")
    for number in range(20):
        change(database, description=str(number))
        found = IMAGES.look_up(database.lookup, "one")
        assert found is not None
        assert found.spec.description == str(number)


def test_looks_of_many_threads_while_rows_change(database: Database) -> None:
    added(database, "one", spec=SPEC)

    def look(_: int) -> set[str]:
        seen = [IMAGES.look_up(database.lookup, "one") for _ in range(50)]
        return {image.spec.family + image.spec.description for image in seen if image is not None}

    with ThreadPoolExecutor(8) as pool:
        looks = [pool.submit(look, index) for index in range(8)]
        for number in range(20):
            change(database, family=f"{number}", description=f"-{number}")
        seen = set().union(*(one.result() for one in looks))
    assert seen <= {f"{number}-{number}" for number in range(20)} | {SPEC.description}


@pytest.fixture
def at_path(tmp_path: Path) -> Iterator[tuple[Database, Path]]:
    path = tmp_path / "c.sqlite3"
    opened = Database.at_path(path)
    opened.write(schema.create_tables)
    yield opened, path
    opened.close()


def test_no_look_keeps_sqlite_from_emptying_its_log(at_path: tuple[Database, Path]) -> None:
    database, path = at_path
    added(database, "one")
    assert IMAGES.look_up(database.lookup, "one") is not None
    added(database, "two", spec=replace(SPEC, name="two"))
    other = sqlite3.connect(path)
    busy, pages, moved = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    other.close()
    assert (busy, pages, moved) == (0, 0, 0)


def test_failure_is_an_error_of_the_usual_type_and_passes(at_path: tuple[Database, Path]) -> None:
    database, _ = at_path
    added(database, "one")
    statement = sa.select(sa.table("later", sa.column("id"))).where(sa.column("id") == sa.bindparam(KEY))
    with pytest.raises(sa.exc.OperationalError, match="no such table"):
        database.lookup.first(statement, "x", dict)
    database.write(lambda tx: tx.exec_driver_sql("CREATE TABLE later (id TEXT)"))
    database.write(lambda tx: tx.exec_driver_sql("INSERT INTO later VALUES ('x')"))
    assert database.lookup.first(statement, "x", dict) == {"id": "x"}


def test_connections_are_used_again_and_closed_with_the_database(at_path: tuple[Database, Path]) -> None:
    database, _ = at_path
    opened: list[sqlite3.Connection] = []
    sa.event.listen(database.engine, "connect", lambda connection, _record: opened.append(connection))
    database.engine.dispose()
    for _ in range(10):
        IMAGES.look_up(database.lookup, "one")
    assert len(opened) == 1
    database.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


def test_unchanged_rows_are_not_read_again(at_path: tuple[Database, Path]) -> None:
    database, path = at_path
    added(database, "one")
    added(database, "two", spec=replace(SPEC, name="two"))
    first = IMAGES.look_up(database.lookup, "one")
    assert first is not None
    assert IMAGES.look_up(database.lookup, "one") is first
    other = sqlite3.connect(path)  # as another process
    other.execute("UPDATE images SET description = 'new' WHERE id = 'one'")
    other.commit()
    changed = IMAGES.look_up(database.lookup, "one")
    assert changed is not None
    assert changed.spec.description == "new"
    other.execute("DELETE FROM images WHERE id = 'one'")
    other.commit()
    other.close()
    assert IMAGES.look_up(database.lookup, "one") is None
    assert IMAGES.look_up(database.lookup, "two") is not None
