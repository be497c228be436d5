"""Disks of a real server: written to, in snapshots and images, in use or not, across kills."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import field_mask_pb2

from dataplane import ControlListener, Disk, Store, lock_disk, open_disk
from dataplane.errors import StoreLocked
from service._pb.yandex.cloud.compute.v1 import disk_pb2, image_pb2, snapshot_pb2
from service._pb.yandex.cloud.compute.v1 import disk_service_pb2 as disks
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.compute.v1 import snapshot_service_pb2 as snapshots
from service._pb.yandex.cloud.operation import operation_pb2
from service.catalog.database import Database
from tests.disks import MIB, disk_bytes
from tests.service.serving import DATAPLANE, Serving, serve
from tests.service.web import Web, serving

SIZE = 16 * MIB
Code = grpc.StatusCode


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as site:
        yield site


def folder_of(server: Serving, disk_id: str) -> Path:
    return server.data / "disks" / disk_id


@contextmanager
def in_use(server: Serving, disk_id: str) -> Iterator[Disk]:
    """Have a disk open for writing, as a server of NBD has it."""
    path = folder_of(server, disk_id)
    with Store.open(server.store) as store, open_disk(store, path) as disk, ControlListener(disk):
        yield disk


def content(server: Serving, disk_id: str) -> bytes:
    """Return all that a disk holds."""
    with Store.open(server.store) as store, open_disk(store, folder_of(server, disk_id), read_only=True) as disk:
        return bytes(disk.read(0, disk.size))


def disk_of(server: Serving, **fields: Any) -> disk_pb2.Disk:
    given: dict[str, Any] = {"folder_id": "f1", "zone_id": "z", "size": SIZE} | fields
    operation = server.finished(server.disks.Create(disks.CreateDiskRequest(**given)).id)
    disk = disk_pb2.Disk()
    assert operation.response.Unpack(disk), operation.error
    return disk


def snapshot(server: Serving, disk_id: str, folder_id: str = "f1") -> operation_pb2.Operation:
    return server.snapshots.Create(snapshots.CreateSnapshotRequest(folder_id=folder_id, disk_id=disk_id))


def snapshot_of(server: Serving, disk_id: str, folder_id: str = "f1") -> snapshot_pb2.Snapshot:
    found = snapshot_pb2.Snapshot()
    operation = server.finished(snapshot(server, disk_id, folder_id).id)
    assert operation.response.Unpack(found), operation.error
    return found


def image_of(server: Serving, **source: Any) -> image_pb2.Image:
    request = images.CreateImageRequest(**{"folder_id": "f1"} | source)
    image = image_pb2.Image()
    operation = server.finished(server.images.Create(request).id)
    assert operation.response.Unpack(image), operation.error
    return image


def from_client(server: Serving, *source: str) -> image_pb2.Image:
    """Make an image with the command-line client."""
    address = ("--endpoint", server.endpoint, "--ca", str(server.ca), "--token", "t")
    command = [*DATAPLANE, "image", "create", *address, "--folder", "f1", *source, "--wait", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return server.images.Get(images.GetImageRequest(image_id=json.loads(done.stdout)["id"]))


def changed(before: bytes, disk: Disk, seed: int) -> bytes:
    """Write here and there; return what the disk holds then."""
    rnd, now = random.Random(seed), bytearray(before)
    for _ in range(20):
        at, length = rnd.randrange(len(before) - 9000), rnd.randrange(1, 9000)
        now[at : at + length] = rnd.randbytes(length)
        disk.write(at, now[at : at + length])
    disk.trim(MIB, MIB)
    now[MIB : 2 * MIB] = bytes(MIB)
    return bytes(now)


def pins(server: Serving) -> set[str]:
    with Store.open(server.store) as store:
        return {pin.name for pin in store.pins()}


def test_disk_in_use_becomes_snapshots_and_images(tmp_path: Path, web: Web) -> None:
    first = disk_bytes(SIZE, seed=3)
    with serve(tmp_path / "data") as server:
        image = server.ready(web.add("/disk.raw", first))
        disk = disk_of(server, image_id=image.id)
        with in_use(server, disk.id) as opened:
            second = changed(first, opened, 1)
            taken = snapshot_of(server, disk.id)
            third = changed(second, opened, 2)
            made = from_client(server, "--disk", disk.id)
            fourth = changed(third, opened, 3)
            with pytest.raises(grpc.RpcError, match="in use"):
                server.disks.Delete(disks.DeleteDiskRequest(disk_id=disk.id))
        copies = {
            disk_of(server, snapshot_id=taken.id).id: second,
            disk_of(server, image_id=image_of(server, snapshot_id=taken.id).id).id: second,
            disk_of(server, image_id=made.id).id: third,
            disk.id: fourth,
        }
        assert (taken.disk_size, made.min_disk_size, made.size) == (SIZE, SIZE, SIZE)
        assert made.storage_size > 0 < taken.storage_size
        server.disks.Delete(disks.DeleteDiskRequest(disk_id=disk.id))
        server.images.Delete(images.DeleteImageRequest(image_id=image.id))
        assert not folder_of(server, disk.id).exists()
        copies.pop(disk.id)
        for disk_id, expected in copies.items():
            assert content(server, disk_id) == expected
        assert {disk.id, f"{disk.id}/next", image.id} & pins(server) == set()


def test_disk_grows_while_it_is_in_use(tmp_path: Path) -> None:
    with serve(tmp_path / "data") as server:
        disk = disk_of(server)
        with in_use(server, disk.id) as opened:
            opened.write(SIZE - 5, b"12345")
            server.disks.Update(disks.UpdateDiskRequest(disk_id=disk.id, size=2 * SIZE))
            assert opened.size == 2 * SIZE
            opened.write(2 * SIZE - 3, b"end")
        taken = snapshot_of(server, disk.id)
        assert taken.disk_size == 2 * SIZE
        whole = content(server, disk_of(server, snapshot_id=taken.id, size=2 * SIZE).id)
        assert (whole[SIZE - 5 : SIZE], whole[-3:], whole.count(0)) == (b"12345", b"end", 2 * SIZE - 8)


def test_snapshot_and_disk_for_other_folders_are_copies(tmp_path: Path, web: Web) -> None:
    data = disk_bytes(SIZE, seed=4)
    with serve(tmp_path / "data") as server:
        image = server.ready(web.add("/disk.raw", data))
        far = disk_of(server, folder_id="f2", image_id=image.id)
        assert content(server, far.id) == data
        with in_use(server, far.id) as opened:
            now = changed(data, opened, 1)
        taken = snapshot_of(server, far.id, folder_id="f3")
        assert (taken.folder_id, taken.source_disk_id) == ("f3", far.id)
        server.disks.Delete(disks.DeleteDiskRequest(disk_id=far.id))
        assert content(server, disk_of(server, folder_id="f3", snapshot_id=taken.id).id) == now
        with Store.open(server.store) as store:
            assert store.pin(taken.id).domain == "f3"
            assert not [pin.name for pin in store.pins() if pin.name.startswith("copy")]


def test_snapshot_survives_a_killed_worker_and_a_killed_server(tmp_path: Path) -> None:
    with serve(tmp_path / "data", workers=1) as server:
        disk = disk_of(server, size=64 * MIB)
        with in_use(server, disk.id) as opened:
            expected = bytearray(64 * MIB)
            for at in range(0, 64 * MIB, MIB):
                expected[at : at + MIB] = random.Random(at).randbytes(MIB)
                opened.write(at, expected[at : at + MIB])
        operation = snapshot(server, disk.id)
        os.kill(server.worker_of(operation.id), signal.SIGKILL)
        done = server.finished(operation.id, timeout_s=60)
        found = snapshot_pb2.Snapshot()
        assert done.response.Unpack(found), done.error
        second = snapshot(server, disk.id)
        server.stop(signal.SIGKILL)
    with serve(tmp_path / "data") as server:
        assert server.finished(second.id, timeout_s=60).WhichOneof("result") == "response"
        assert content(server, disk_of(server, snapshot_id=found.id, size=64 * MIB).id) == expected
        assert content(server, disk.id) == expected


def test_disk_that_a_worker_has_open_for_a_snapshot_refuses_sensibly_and_recovers(tmp_path: Path) -> None:
    """Without a listener the worker itself opens the disk. It is stopped while it merges: what is asked meanwhile is
    refused with the operation's id; whatever needs no content is done; then everything works."""
    with serve(tmp_path / "data", workers=1) as server:
        disk = disk_of(server, size=64 * MIB)
        with in_use(server, disk.id) as opened:
            for at in range(0, 64 * MIB, MIB):
                opened.write(at, random.Random(at).randbytes(MIB))
        operation = snapshot(server, disk.id)
        worker = server.worker_of(operation.id)
        while not is_locked(server, disk.id):
            assert not server.operation(operation.id).done
        stop_between_changes(server, worker)
        try:
            calls: list[Callable[[], object]] = [
                lambda: snapshot(server, disk.id),
                lambda: server.images.Create(images.CreateImageRequest(folder_id="f1", disk_id=disk.id)),
                lambda: server.disks.Update(disks.UpdateDiskRequest(disk_id=disk.id, size=128 * MIB)),
                lambda: server.disks.Delete(disks.DeleteDiskRequest(disk_id=disk.id)),
            ]
            for call in calls:
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                assert caught.value.code() is Code.FAILED_PRECONDITION, caught.value.details()
                assert operation.id in str(caught.value.details())
            mask = field_mask_pb2.FieldMask(paths=["description"])
            update = disks.UpdateDiskRequest(disk_id=disk.id, description="d", update_mask=mask)
            assert server.disks.Update(update).done
        finally:
            os.kill(worker, signal.SIGCONT)
        found = snapshot_pb2.Snapshot()
        assert server.finished(operation.id, timeout_s=60).response.Unpack(found)
        assert snapshot_of(server, disk.id).storage_size == found.storage_size  # at once, whoever closes it still
        assert server.disks.Update(disks.UpdateDiskRequest(disk_id=disk.id, size=128 * MIB)).done
        assert image_of(server, disk_id=disk.id).min_disk_size == 128 * MIB
        assert server.disks.Delete(disks.DeleteDiskRequest(disk_id=disk.id)).done
        assert not folder_of(server, disk.id).exists()


def stop_between_changes(server: Serving, pid: int) -> None:
    """Stop a process while it holds no lock of the catalogue: SQLite has one for all, which it would keep."""
    with Store.open(server.store) as store, contextlib.closing(Database.beside(store)) as catalogue:
        catalogue.write(lambda _tx: stop(pid))


def stop(pid: int) -> None:
    """Stop a process, and return once it is."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)


def is_locked(server: Serving, disk_id: str) -> bool:
    """Say whether a process has a disk open."""
    try:
        os.close(lock_disk(folder_of(server, disk_id)))
    except StoreLocked:
        return True
    return False


def test_lost_folder_of_a_disk_is_told_as_data_loss(tmp_path: Path) -> None:
    with serve(tmp_path / "data") as server:
        disk = disk_of(server)
        folder_of(server, disk.id).rename(tmp_path / "elsewhere")
        done = server.finished(snapshot(server, disk.id).id)
        assert done.error.code == Code.DATA_LOSS.value[0]
        assert "restore" in done.error.message
        assert server.disks.Delete(disks.DeleteDiskRequest(disk_id=disk.id)).done
