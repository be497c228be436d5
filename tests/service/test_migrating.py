"""Catalogues of older programs become those of this one in place, with what they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.catalog import binding_rows, operation_rows, schema
from service.catalog.database import Database
from service.catalog.resource_rows import DISKS, IMAGES, SNAPSHOTS
from service.model import AccessBinding, Status
from tests.postgres import PostgresServer

IMAGE_ID = "fd8image000000000000"
CATALOGUES = Path(__file__).with_name("catalogues")
NewDatabase = Callable[[str], Database]


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> NewDatabase:
    """Makes empty databases of one of the two kinds."""

    def make(name: str) -> Database:
        if request.param == "sqlite":
            database = Database.at_path(tmp_path / f"{name}.sqlite3")
        else:
            server: PostgresServer = request.getfixturevalue("postgres_server")
            database = Database.at_url(server.new_database())
        request.addfinalizer(database.close)
        return database

    return make


def fill(tx: Connection, version: int) -> None:
    """Run the statements that a program of this version ran."""
    text = (CATALOGUES / f"version_{version}.sql").read_text()
    if tx.dialect.name == "postgresql":
        text = (
            text.replace(" BLOB", " BYTEA").replace("done IS 0", "done IS false").replace("done IS 1", "done IS true")
        )
    for statement in text.split(";\n"):
        if statement.strip():
            tx.exec_driver_sql(statement.replace("%", "%%"))


@pytest.mark.parametrize("version", [1, 2])
def test_older_catalogue_is_brought_up_to_date(new_database: NewDatabase, version: int) -> None:
    fresh, old = new_database("fresh"), new_database("old")
    fresh.write(schema.create_tables)
    old.write(lambda tx: fill(tx, version))
    for _ in range(2):  # the second time there is nothing to do
        old.write(schema.create_tables)
    with fresh.read() as wanted, old.read() as tx:
        assert described(tx) == described(wanted)
        assert tx.execute(sa.select(schema.versions.c.version)).scalar() == schema.SCHEMA_VERSION
        image = IMAGES.get(tx, IMAGE_ID)
        assert image is not None
        assert (image.spec.name, image.spec.labels, image.status) == ("disk", {"a": "b"}, Status.READY)
        made_by = operation_rows.of_resource(tx, IMAGE_ID, after=None, limit=2)
        assert [(operation.resource_id, operation.disk_id) for operation in made_by] == [(IMAGE_ID, None)]
        shared = {AccessBinding(subject_type="system", subject_id="allAuthenticatedUsers", role_id="viewer")}
        assert binding_rows.everything(tx, IMAGE_ID) == (shared if version == 2 else set())
        assert DISKS.get(tx, IMAGE_ID) is None
        assert SNAPSHOTS.get(tx, IMAGE_ID) is None


def described(tx: Connection) -> dict[str, Any]:
    """Return the names of all columns and indexes."""
    inspector = sa.inspect(tx)
    return {
        table: (
            sorted(
                (column["name"], str(column["type"]), column["nullable"]) for column in inspector.get_columns(table)
            ),
            sorted(str(index["name"]) for index in inspector.get_indexes(table)),
        )
        for table in inspector.get_table_names()
    }
