"""The service with ledger and catalogue in PostgreSQL: the same calls, races and crashes end as they do on SQLite."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from sqlalchemy.engine import Connection

from dataplane import Store
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.operation import operation_pb2
from service.catalog import schema
from service.catalog.database import Database
from service.quotas import Quotas
from tests.disks import MIB, disk_bytes
from tests.postgres import CHOICE, PostgresServer
from tests.service import web
from tests.service.control import TOKEN, ControlPlane, running
from tests.service.serving import Serving


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    """A database of this test's own."""
    return postgres_server.new_database()


@pytest.fixture
def plane(tmp_path: Path, url: str) -> Iterator[ControlPlane]:
    """A control plane whose catalogue is in PostgreSQL."""
    with running(tmp_path, database_url=url, quotas=Quotas(images=6)) as plane:
        yield plane


def listed(plane: ControlPlane, **fields: object) -> list[str]:
    request = images.ListImagesRequest(folder_id="f1", **fields)  # type: ignore[arg-type]
    return [image.name for image in plane.images.List(request, metadata=TOKEN).images]


def test_calls(plane: ControlPlane) -> None:
    ids = {name: plane.ready(name=name, labels={"kind": name}, family="fam-1") for name in ("b", "a", "c")}
    assert listed(plane, order_by="name desc") == ["c", "b", "a"]
    assert listed(plane, filter='name IN ("a", "c") AND labels.kind != "c"') == ["a"]
    latest = images.GetImageLatestByFamilyRequest(folder_id="f1", family="fam-1")
    assert plane.images.GetLatestByFamily(latest, metadata=TOKEN).name == "c"
    with pytest.raises(grpc.RpcError) as taken:
        plane.create(name="a")
    assert taken.value.code() is grpc.StatusCode.ALREADY_EXISTS
    update = images.UpdateImageRequest(image_id=ids["a"], name="z", update_mask={"paths": ["name"]})  # type: ignore[arg-type]
    assert plane.images.Update(update, metadata=TOKEN).done
    assert plane.images.Delete(images.DeleteImageRequest(image_id=ids["b"]), metadata=TOKEN).done
    assert sorted(listed(plane)) == ["c", "z"]


def test_one_key_at_once_makes_one_operation(plane: ControlPlane) -> None:
    made: list[operation_pb2.Operation] = []
    metadata = (*TOKEN, ("idempotency-key", "0e7bb1f4-4a1e-4d3e-9d6a-3c2b1a000001"))
    request = images.CreateImageRequest(folder_id="f1", name="once", uri="https://h/disk.qcow2")

    def create() -> None:
        made.append(plane.images.Create(request, metadata=metadata))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert {operation.id for operation in made} == {made[0].id}
    assert listed(plane) == ["once"]


def test_quota_holds_when_many_ask_at_once(plane: ControlPlane) -> None:
    codes: list[grpc.StatusCode | None] = []

    def create(number: int) -> None:
        try:
            plane.create(name=f"image-{number}")
            codes.append(None)
        except grpc.RpcError as error:
            codes.append(error.code())

    threads = [threading.Thread(target=create, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(listed(plane)) == codes.count(None) <= 6
    assert set(codes) <= {None, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}


def test_one_claim_for_each_operation(plane: ControlPlane) -> None:
    for number in range(4):
        plane.create(name=f"image-{number}")
    claimed: list[str] = []

    def claim(owner: str) -> None:
        while (operation := plane.claim(owner=owner)) is not None:
            claimed.append(operation.id)

    threads = [threading.Thread(target=claim, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 4


def test_conflicting_changes_run_again(url: str) -> None:
    database = Database.at_url(url)
    database.write(schema.create_tables)
    database.write(lambda tx: tx.exec_driver_sql("CREATE TABLE counter (n integer)"))
    database.write(lambda tx: tx.exec_driver_sql("INSERT INTO counter VALUES (0)"))

    def add(tx: Connection) -> None:
        (n,) = tx.exec_driver_sql("SELECT n FROM counter").one()
        tx.exec_driver_sql(f"UPDATE counter SET n = {n + 1}")

    def work() -> None:
        for _ in range(5):
            database.write(add)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as tx:
        assert tx.exec_driver_sql("SELECT n FROM counter").scalar() == 15
    database.close()


def test_server_imports_survives_a_kill_and_deletes(tmp_path: Path, url: str) -> None:
    data, flags = tmp_path / "data", ("--dev", "--database", url)
    with web.serving() as site:
        source = site.add("/disk.raw", disk_bytes(8 * MIB))
        server = Serving(data, workers=2, flags=flags)
        try:
            image = server.ready(source, name="disk")
            doubtful = server.create(source, name="doubtful")
            server.stop(signal.SIGKILL)
            server = Serving(data, workers=2, flags=("--dev",))
            assert server.finished(doubtful.id).WhichOneof("result") == "response"
            kept = server.images.Get(images.GetImageRequest(image_id=image.id))
            assert kept.storage_size == image.storage_size > 0
            assert server.images.Delete(images.DeleteImageRequest(image_id=image.id)).done
        finally:
            server.stop()
        assert str(url.split(":")[2].split("@")[0]) not in server.log.read_text()
    with Store.open(data / "store") as store:
        assert len(store.pins()) == 1
        assert store.ledger_url == url


def test_other_database_than_the_stores_is_refused(tmp_path: Path, postgres_server: PostgresServer) -> None:
    Store.create(tmp_path / "store").close()
    command = [sys.executable, "-m", "dataplane.cli.main", "serve", "--data", str(tmp_path), "--dev"]
    done = subprocess.run(
        [*command, "--database", postgres_server.url("other")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "is not where store" in done.stderr


def test_password_is_not_shown(postgres_server: PostgresServer) -> None:
    command = [sys.executable, "-m", "dataplane.cli.main", "config", "show"]
    for form in ((), ("--json",)):
        environment = os.environ | {"DATAPLANE_DATABASE": "postgresql://me:hush@host/db?password=hush"}
        shown = subprocess.run([*command, *form], capture_output=True, text=True, check=True, env=environment).stdout
        assert "postgresql://me@host/db" in shown
        assert "hush" not in shown


@pytest.mark.slow
def test_suite_of_the_service_passes_on_postgresql(root: Path, postgres_server: PostgresServer) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "tests/service", "-p", "no:cacheprovider"]
    environment = os.environ | {CHOICE: postgres_server.url("postgres")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
