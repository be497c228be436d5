"""Disks that the server has open: shared by clients, kept while operations take their content, waited for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplane import Store, disk_status, lock_disk
from dataplane.errors import NotFound, StoreLocked
from service.disk_folders import DiskFolders
from service.nbd import holder
from service.nbd.holder import Holder
from service.nbd.open_disks import OpenDisks
from service.nbd.pool_files import PoolFiles
from tests.disks import MIB
from tests.service.control import ControlPlane
from tests.service.test_disk_calls import created, snapshot

SIZE = 64 * MIB


class Opened:
    """A control plane and the open disks of its server."""

    def __init__(self, control: ControlPlane, store: Store) -> None:
        self.control = control
        self.folders = control.folders
        real = DiskFolders(control.folders.path(""), store)
        self.pools = PoolFiles(control.folders.path("").parent / "pool", store, size_max=MIB, total_max=MIB)
        self.pools.prepare()
        self.disks = OpenDisks(control.database, store, real, self.pools, cache_size=MIB)

    def is_open(self, disk_id: str) -> bool:
        try:
            os.close(lock_disk(self.folders.path(disk_id)))
        except StoreLocked:
            return True
        return False


@pytest.fixture
def opened(control: ControlPlane, tmp_path: Path) -> Iterator[Opened]:
    with Store.create(tmp_path / "store") as store:
        made = Opened(control, store)
        yield made
        made.disks.close()


@pytest.fixture
def keeper(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> Iterator[Holder]:
    monkeypatch.setattr(holder, "LOOK_S", 0.02)
    monkeypatch.setattr(holder, "IDLE_S", 0.2)
    made = Holder(opened.control.database, opened.disks)
    yield made
    made.stop()


def until(look: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_users_share_a_disk_and_the_last_closes_it(opened: Opened) -> None:
    disk_id = created(opened.control, size=SIZE).id
    first, second = opened.disks.take(disk_id), opened.disks.take(disk_id)
    assert first is second
    first.write(5, b"data")
    opened.disks.give_back(disk_id)
    assert opened.is_open(disk_id)
    opened.disks.give_back(disk_id)
    assert not opened.is_open(disk_id)
    again, view = opened.disks.take(disk_id), memoryview(bytearray(6))
    again.read_into(4, view)
    assert bytes(view) == b"\0data\0"


def test_disk_is_as_large_as_the_catalogue_says(opened: Opened) -> None:
    disk_id = created(opened.control, size=SIZE).id
    opened.control.database.write(lambda tx: tx.exec_driver_sql(f"UPDATE disks SET size = {2 * SIZE}"))
    assert opened.disks.take(disk_id).size == 2 * SIZE
    assert disk_status(opened.folders.path(disk_id)).size == 2 * SIZE


def test_disk_that_is_not_there_is_not_opened(opened: Opened) -> None:
    with pytest.raises(NotFound):
        opened.disks.take("fhmnothing0000000000")


def test_process_that_is_about_to_close_a_disk_is_waited_for(opened: Opened) -> None:
    disk_id = created(opened.control, size=SIZE).id
    lock = lock_disk(opened.folders.path(disk_id))
    with pytest.raises(StoreLocked):
        opened.disks.take(disk_id, wait_s=0)
    threading.Timer(0.3, lambda: os.close(lock)).start()
    assert opened.disks.take(disk_id, wait_s=60).size == SIZE


def test_disk_is_held_as_long_as_its_content_is_taken(opened: Opened, keeper: Holder) -> None:
    disk_id = created(opened.control, size=SIZE).id
    snapshot(opened.control, disk_id)
    claimed = opened.control.claimed()
    keeper.hold(disk_id)
    time.sleep(0.5)
    assert opened.is_open(disk_id)
    opened.control.succeed(claimed)
    until(lambda: not opened.is_open(disk_id))


def test_disk_that_goes_is_dropped_at_once_and_one_in_use_is_left_alone(opened: Opened, keeper: Holder) -> None:
    first, second = (created(opened.control, size=SIZE).id for _ in range(2))
    keeper.hold(first)
    keeper.hold(first)
    keeper.drop(first)
    keeper.drop(first)
    assert not opened.is_open(first)
    lock = lock_disk(opened.folders.path(second))
    keeper.hold(second)
    os.close(lock)
    assert not opened.is_open(second)
