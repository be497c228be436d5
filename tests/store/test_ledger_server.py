"""A ledger in PostgreSQL does what one in SQLite does, and says what is wrong in one line without its password."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from dataplane.errors import AlreadyExists, IoFailed, NotFound, StoreError, StoreIncompatible, StoreLocked, UsageError
from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import import_image, prepare_import
from dataplane.store import sql
from dataplane.store.ledger_server import LedgerServer, check_postgres_url, without_password
from dataplane.store.store import Store
from dataplane.upkeep.gc import collect
from dataplane.upkeep.scrub import scrub
from tests.disks import KIB, MIB, disk_bytes, write_sparse
from tests.postgres import CHOICE, PostgresServer

CHUNK_SIZE = 16 * KIB


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """A database of this test's own."""
    return postgres_server.new_database()


@pytest.fixture
def store(tmp_path: Path, url: str) -> Iterator[Store]:
    """An empty store whose ledger is in PostgreSQL."""
    with Store.create(tmp_path / "store", chunk_size=CHUNK_SIZE, ledger_url=url) as store:
        yield store


def disk(folder: Path, seed: int) -> Path:
    return write_sparse(folder / f"disk-{seed}.raw", disk_bytes(2 * MIB, seed=seed))


def bring(store: Store, name: str, path: Path) -> None:
    with open_source(path, format="raw") as source:
        import_image(store, source, name=name)


@contextmanager
def writing(url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Be another writer of the ledger while the block runs."""
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE ledger_meta SET value = value WHERE name = 'epoch'")
        yield connection
        connection.rollback()


def test_life_of_a_store(store: Store, tmp_path: Path) -> None:
    first, second = disk(tmp_path, 1), disk(tmp_path, 2)
    bring(store, "first", first)
    bring(store, "second", second)
    with pytest.raises(AlreadyExists):
        bring(store, "first", first)
    store.unpin("first", undeletable=True)
    store.undelete("first")
    store.unpin("second")
    with pytest.raises(NotFound):
        store.unpin("second")
    before = store.ledger.packs()
    for _ in range(2):
        collect(store, grace_s=0, undelete_s=0)
    assert store.ledger.packs() != before
    export_image(store, "first", tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == first.read_bytes()
    found = scrub(store)
    assert found.damage == []
    assert found.complete


def test_store_is_opened_by_what_its_folder_says(store: Store, tmp_path: Path) -> None:
    bring(store, "disk", disk(tmp_path, 1))
    assert not store.layout.ledger.exists()
    command = [sys.executable, "-m", "dataplane.cli.main", "ls", str(store.path), "--json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"name": "disk"' in listed.stdout


def test_url_file_is_kept_like_the_secret(store: Store, url: str) -> None:
    assert store.ledger_url == url
    assert store.layout.ledger_url.stat().st_mode & 0o777 == 0o600
    store.layout.ledger_url.chmod(0o640)
    with pytest.raises(StoreIncompatible, match="chmod 600"):
        Store.open(store.path)


def test_database_belongs_to_one_store(store: Store, url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="a database of its own") as refused:
        Store.create(tmp_path / "other", ledger_url=url)
    assert str(urlsplit(url).password) not in str(refused.value)
    assert not (tmp_path / "other").exists()


def test_two_imports_at_once_into_one_ledger(store: Store, tmp_path: Path) -> None:
    paths = [disk(tmp_path, seed) for seed in (1, 2, 3, 4)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with Store.open(store.path) as mine:
                bring(mine, f"image-{number}", paths[number])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(paths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [pin.name for pin in store.pins()] == [f"image-{number}" for number in range(len(paths))]


def test_lent_connection_commits_with_its_owner(store: Store, url: str, tmp_path: Path) -> None:
    with (
        open_source(disk(tmp_path, 1), format="raw") as source,
        prepare_import(store, source) as prepared,
        psycopg.connect(url) as mine,
    ):
        prepared.pin("rolled-back", connection=mine)
        mine.rollback()
        assert store.pins() == []
        prepared.pin("kept", connection=mine)
        mine.commit()
    assert [pin.name for pin in store.pins()] == ["kept"]
    assert scrub(store).damage == []


def test_connection_that_the_server_dropped_is_made_anew(store: Store, url: str, tmp_path: Path) -> None:
    bring(store, "before", disk(tmp_path, 1))
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with pytest.raises(IoFailed, match="the ledger in postgresql://"):
        store.pins()
    bring(store, "after", disk(tmp_path, 2))
    assert [pin.name for pin in store.pins()] == ["after", "before"]


def test_writers_wait_for_each_other_and_not_for_ever(store: Store, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataplane.store.ledger_server as server

    monkeypatch.setattr(server, "BUSY_TIMEOUT_S", 0.2)
    with writing(url), Store.open(store.path) as hasty, pytest.raises(StoreLocked, match="busy"):
        hasty.ledger.forget_removed(0)
    with Store.open(store.path) as patient:
        patient.ledger.forget_removed(0)
    assert sql.BUSY_TIMEOUT_S >= 10


def test_server_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(IoFailed) as failure:
        Store.create(tmp_path / "store", ledger_url="postgresql://me:hidden@127.0.0.1:1/db")
    assert "\n" not in str(failure.value)
    assert "hidden" not in str(failure.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("wrong", ["", "sqlite:///x", "postgresql://host", "postgresql:///", "/tmp/ledger", "db"])
def test_url_that_is_none(wrong: str) -> None:
    with pytest.raises(UsageError, match="postgresql://USER@HOST/DATABASE"):
        check_postgres_url(wrong)


def test_password_and_options_are_not_shown() -> None:
    shown: Callable[[str], str] = without_password
    assert shown("postgresql://me:a@b:c@host:5432/db?password=x") == "postgresql://me@host:5432/db"
    assert shown("postgresql:///db?host=/run") == "postgresql:///db"


def test_foreign_connection_is_refused(url: str) -> None:
    database = LedgerServer(url)
    try:
        with pytest.raises(UsageError, match="that was lent"):
            database.lent(object())
    finally:
        database.close()


@pytest.mark.slow
def test_suites_of_the_store_pass_on_postgresql(root: Path, postgres_server: PostgresServer) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "tests/store/test_store.py", "tests/upkeep"]
    environment = os.environ | {CHOICE: postgres_server.url("postgres")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
