"""Snapshots: at a moment, complete, as cheap as the change, and of a disk that somebody else has open."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.disks import control
from dataplane.disks.control import ControlListener, OwnerGone, RemoteDisk
from dataplane.disks.disk import open_disk
from dataplane.disks.folder import CONTROL_NAME, read_state
from dataplane.disks.pinning import NEXT, create_disk, delete_disk
from dataplane.disks.resizing import resize_disk
from dataplane.disks.snapshot import prepare_snapshot, snapshot_disk
from dataplane.errors import AlreadyExists, Cancelled, Corrupt, StoreLocked, UsageError
from dataplane.store.store import Store
from dataplane.upkeep.gc import collect
from dataplane.upkeep.scrub import scrub
from tests.disk.helpers import bring, exported, kill
from tests.disks import KIB, MIB, disk_bytes

SIZE = 6 * MIB + 512


@pytest.fixture(params=[4 * KIB, 64 * KIB, MIB], ids=["4K", "64K", "1M"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "store", chunk_size=request.param) as store:
        yield store


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Store]:
    """A store of one chunk size, for what does not depend on it."""
    with Store.create(tmp_path / "store", chunk_size=16 * KIB) as store:
        yield store


def test_snapshot_is_what_an_import_would_be(store: Store, tmp_path: Path) -> None:
    content = bytearray(disk_bytes(SIZE, seed=4))
    bring(store, "image", bytes(content), tmp_path)
    create_disk(store, tmp_path / "disk", image="image", size=SIZE + MIB)
    content += bytes(MIB)
    rnd = random.Random(2)
    with open_disk(store, tmp_path / "disk") as disk:
        for number in range(4):
            for _ in range(12):
                offset = rnd.randrange(len(content))
                length = min(rnd.choice([100, 4096, 300_000]), len(content) - offset)
                data = rnd.choice([rnd.randbytes(length), bytes(length), bytes(content[:length])])
                disk.write(offset, data)
                content[offset : offset + length] = data
            disk.write_zeroes(MIB, MIB)
            content[MIB : 2 * MIB] = bytes(MIB)
            result = snapshot_disk(store, disk, name=f"snapshot-{number}")
            again = bring(store, f"import-{number}", bytes(content), tmp_path)
            assert (result.root, result.sizes) == (again.root, again.sizes)
            assert disk.status().written_size == 0
            assert disk.read(0, disk.size) == content
        assert exported(store, "snapshot-3", tmp_path) == content
    assert scrub(store, threads=1).damage == []


def test_snapshot_reads_and_stores_only_what_changed(small: Store, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(4 * MIB)
    bring(small, "image", content, tmp_path)
    create_disk(small, tmp_path / "disk", image="image")
    with open_disk(small, tmp_path / "disk") as disk:
        first = snapshot_disk(small, disk, name="unchanged")
        assert (first.bytes_read, first.bytes_written, first.root) == (0, 0, small.pin("image").root)
        assert read_state(tmp_path / "disk").layer == 1
        disk.write(MIB + 100, b"one byte or two")
        second = snapshot_disk(small, disk, name="changed")
        assert second.bytes_read == 16 * KIB
        assert 16 * KIB < second.bytes_written < 64 * KIB
        disk.write(MIB + 100, content[MIB + 100 : MIB + 115])
        third = snapshot_disk(small, disk, name="changed back")
        assert third.root == small.pin("image").root
        assert third.bytes_written == 0


def test_trimmed_and_zeroed_ranges_leave_the_root(small: Store, tmp_path: Path) -> None:
    bring(small, "image", random.Random(1).randbytes(4 * MIB), tmp_path)
    create_disk(small, tmp_path / "disk", image="image")
    with open_disk(small, tmp_path / "disk") as disk:
        before = snapshot_disk(small, disk, name="before").sizes
        disk.trim(0, MIB)
        disk.write(MIB, bytes(MIB))
        disk.write_zeroes(2 * MIB, MIB)
        after = snapshot_disk(small, disk, name="after").sizes
        assert (before.chunks, after.chunks) == (256, 64)
        assert after.storage_size * 4 == before.storage_size
        disk.trim(0, 4 * MIB)
        assert snapshot_disk(small, disk, name="nothing").sizes.storage_size == 0
        assert [tuple(span) for span in disk.extents(0, disk.size)] == [(4 * MIB, True, True)]


def test_empty_disk_has_a_snapshot(small: Store, tmp_path: Path) -> None:
    create_disk(small, tmp_path / "disk", size=MIB)
    result = snapshot_disk(small, tmp_path / "disk", name="empty")
    assert (result.sizes.virtual_size, result.sizes.chunks) == (MIB, 0)
    assert exported(small, "empty", tmp_path) == bytes(MIB)
    assert small.pin(read_state(tmp_path / "disk").owner).root == result.root


def test_growth_alone_makes_another_root(small: Store, tmp_path: Path) -> None:
    content = disk_bytes(MIB - 512, seed=6)
    bring(small, "image", content, tmp_path)
    create_disk(small, tmp_path / "disk", image="image")
    resize_disk(small, tmp_path / "disk", 2 * MIB)
    result = snapshot_disk(small, tmp_path / "disk", name="larger")
    again = bring(small, "again", content + bytes(MIB + 512), tmp_path)
    assert (result.root, result.sizes) == (again.root, again.sizes)


def test_snapshot_under_a_taken_name_leaves_the_disk_alone(small: Store, tmp_path: Path) -> None:
    create_disk(small, tmp_path / "disk", size=MIB)
    with open_disk(small, tmp_path / "disk") as disk:
        disk.write(0, b"x")
        snapshot_disk(small, disk, name="one")
        disk.write(0, b"y")
        with pytest.raises(AlreadyExists):
            snapshot_disk(small, disk, name="one")
        with pytest.raises(AlreadyExists), prepare_snapshot(small, disk) as prepared:
            prepared.pin("one")
        assert disk.read(0, 1) == b"y"
        snapshot_disk(small, disk, name="two")
    assert exported(small, "one", tmp_path)[:1] == b"x"
    assert exported(small, "two", tmp_path)[:1] == b"y"


def test_cancelled_snapshot_leaves_nothing(small: Store, tmp_path: Path) -> None:
    create_disk(small, tmp_path / "disk", size=MIB)
    cancelled = threading.Event()
    cancelled.set()
    with open_disk(small, tmp_path / "disk") as disk:
        disk.write(0, b"x" * MIB)
        with pytest.raises(Cancelled):
            snapshot_disk(small, disk, name="one", cancelled=cancelled)
        assert small.pins() == []
        assert list(small.layout.packs.glob("*/*")) == []
        assert disk.read(0, MIB) == b"x" * MIB
        snapshot_disk(small, disk, name="one")
        assert exported(small, "one", tmp_path) == b"x" * MIB


def test_pin_is_part_of_the_callers_transaction(small: Store, tmp_path: Path) -> None:
    if small.ledger_url is not None:
        pytest.skip("speaks to SQLite")
    import sqlite3

    connection = sqlite3.connect(small.ledger_path, isolation_level=None)
    create_disk(small, tmp_path / "disk", size=MIB)
    with open_disk(small, tmp_path / "disk") as disk:
        disk.write(0, b"x")
        with prepare_snapshot(small, disk) as prepared:
            connection.execute("BEGIN IMMEDIATE")
            prepared.pin("one", connection=connection)
            connection.execute("ROLLBACK")
        assert small.pins() == []
        assert read_state(disk.folder).sealed is not None
        disk.write(1, b"y")
        with prepare_snapshot(small, disk) as prepared:
            connection.execute("BEGIN IMMEDIATE")
            prepared.pin("one", connection=connection)
            connection.execute("COMMIT")
        assert sorted(pin.name for pin in small.pins()) == sorted(["one", disk.state.owner])
        assert disk.state.sealed is None
        assert disk.read(0, 3) == b"xy\0"
    assert exported(small, "one", tmp_path)[:3] == b"xy\0"


# ---------------------------------------------------------------------------------------------- a moment
def test_snapshot_is_of_one_moment(small: Store, tmp_path: Path) -> None:
    """A writer raises counter A, then counter B, far apart: at any moment B ≤ A ≤ B + 1; others write noise."""
    create_disk(small, tmp_path / "disk", size=8 * MIB)
    stop = threading.Event()
    failures: list[BaseException] = []
    with open_disk(small, tmp_path / "disk") as disk:

        def count() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                disk.write(100, struct.pack("<Q", number))
                disk.write(7 * MIB + 4000, struct.pack("<Q", number))

        def make_noise() -> None:
            rnd = random.Random(5)
            while not stop.is_set():
                disk.write(MIB + rnd.randrange(4 * MIB), rnd.randbytes(rnd.randrange(1, 50_000)))
                if rnd.randrange(10) == 0:
                    disk.flush()
                if rnd.randrange(10) == 0:
                    disk.trim(MIB + rnd.randrange(4 * MIB), MIB)

        def guarded(work: object) -> None:
            try:
                work()  # type: ignore[operator]
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=guarded, args=(work,)) for work in (count, make_noise)]
        for thread in threads:
            thread.start()
        counted = []
        try:
            for number in range(6):
                snapshot_disk(small, disk, name=f"moment-{number}", threads=1)
                data = exported(small, f"moment-{number}", tmp_path)
                (first,), (second,) = (struct.unpack_from("<Q", data, at) for at in (100, 7 * MIB + 4000))
                assert second <= first <= second + 1
                counted.append(first)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert failures == []
    assert counted == sorted(counted)
    assert counted[-1] > counted[0]


# ---------------------------------------------------------------------------------------------- beside others
def test_collection_beside_an_open_disk_loses_nothing(small: Store, tmp_path: Path) -> None:
    """The image goes, its packs are condemned, rewritten and deleted, and the disk has not looked at most of it yet."""
    content = bytearray(random.Random(1).randbytes(3 * MIB))
    bring(small, "image", bytes(content), tmp_path)
    create_disk(small, tmp_path / "disk", image="image")
    with open_disk(small, tmp_path / "disk") as disk:
        assert disk.read(0, 100) == content[:100]
        small.unpin("image")
        collect(small, grace_s=0, undelete_s=0, fence_s=1)
        assert disk.read(MIB, 100) == content[MIB : MIB + 100]
        # Most of the base's packs are garbage after this: what is left of them is written anew elsewhere.
        disk.trim(0, 2 * MIB + 512 * KIB)
        content[: 2 * MIB + 512 * KIB] = bytes(2 * MIB + 512 * KIB)
        disk.write(5000, b"new")
        content[5000:5003] = b"new"
        snapshot_disk(small, disk, name="snapshot")
        before = set(small.ledger.packs())
        collect(small, grace_s=0, undelete_s=0, fence_s=1)
        assert before - set(small.ledger.packs())
        assert disk.read(0, disk.size) == content
        small.unpin("snapshot")
        collect(small, grace_s=0, undelete_s=0, fence_s=1)
    with open_disk(small, tmp_path / "disk") as disk:
        assert disk.read(0, disk.size) == content
    delete_disk(small, tmp_path / "disk")
    collect(small, grace_s=0, undelete_s=0, fence_s=1)
    assert small.ledger.packs() == {}


def test_damaged_base_is_noticed(small: Store, tmp_path: Path) -> None:
    bring(small, "image", random.Random(1).randbytes(MIB), tmp_path)
    create_disk(small, tmp_path / "disk", image="image")
    (pack,) = small.layout.packs.glob("*/*")
    data = bytearray(pack.read_bytes())
    data[5000] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    with open_disk(small, tmp_path / "disk") as disk:
        with pytest.raises(Corrupt):
            disk.read(0, MIB)
        with pytest.raises(Corrupt):  # the rest of the block cannot be had, and is not made up
            disk.write(10, b"x")
        disk.write(0, bytes([1]) * 16 * KIB)
        assert disk.read(0, 16 * KIB) == bytes([1]) * 16 * KIB


# ---------------------------------------------------------------------------------------------- by control
def test_disk_that_is_open_elsewhere_is_asked(small: Store, tmp_path: Path) -> None:
    folder = tmp_path / ("a folder whose path is longer than the address of a socket may be" * 3)
    create_disk(small, folder, size=MIB)
    with open_disk(small, folder) as disk:
        with pytest.raises(StoreLocked):
            snapshot_disk(small, folder, name="early")
        with ControlListener(disk), Store.open(tmp_path / "store") as other:
            disk.write(0, b"first")
            result = snapshot_disk(other, folder, name="first")
            assert result.bytes_read == 16 * KIB
            assert disk.state.sealed is None
            assert disk.state.base_root == result.root.hex()
            disk.write(0, b"second")
            resize_disk(other, folder, 2 * MIB)
            assert disk.size == 2 * MIB
            with pytest.raises(UsageError, match="only grows"):
                resize_disk(other, folder, MIB)
            snapshot_disk(other, folder, name="second")
        assert not (folder / CONTROL_NAME).exists()
    assert exported(small, "first", tmp_path)[:6] == b"first\0"
    assert exported(small, "second", tmp_path)[:6] == b"second"


def test_asker_that_dies_is_no_obstacle(small: Store, tmp_path: Path) -> None:
    create_disk(small, tmp_path / "disk", size=MIB)
    with open_disk(small, tmp_path / "disk") as disk, ControlListener(disk):
        disk.write(0, b"one")
        with RemoteDisk(tmp_path / "disk") as asker:
            assert asker.freeze().fresh
        disk.write(3, b"two")
        result = snapshot_disk(small, tmp_path / "disk", name="after")
        assert result.sizes.chunks == 1
        assert disk.read(0, 7) == b"onetwo\0"
        assert sorted(pin.name for pin in small.pins()) == sorted(["after", disk.state.owner])
    assert exported(small, "after", tmp_path)[:7] == b"onetwo\0"


def test_owner_that_dies_while_asked_is_an_error(small: Store, tmp_path: Path) -> None:
    """The snapshot is not lost: the layer is sealed, and the next one merges it."""
    create_disk(small, tmp_path / "disk", size=MIB)
    disk = open_disk(small, tmp_path / "disk")
    listener = ControlListener(disk)
    disk.write(0, b"one")
    with RemoteDisk(tmp_path / "disk") as asker:
        asker.freeze()
        listener.close()
        kill(disk)
        with pytest.raises(OwnerGone):
            asker.status()
        asker.release()
    result = snapshot_disk(small, tmp_path / "disk", name="after")
    assert exported(small, "after", tmp_path)[:4] == b"one\0"
    assert result.root == small.pin(read_state(tmp_path / "disk").owner).root


@pytest.mark.parametrize("moment", ["before", "frozen", "merged"])
def test_owner_killed_while_it_is_asked_is_asked_no_more(small: Store, tmp_path: Path, moment: str) -> None:
    """A real owner, killed before it freezes, after that, or when it is to move on: the snapshot is made."""
    create_disk(small, tmp_path / "disk", size=MIB)
    program = f"""
import os, time
from dataplane.disks import control, disk
from dataplane.store.store import Store
die = lambda *_: os._exit(9)
if {moment!r} == "before": disk.Disk.freeze = die
if {moment!r} == "frozen": control.plain = die
if {moment!r} == "merged": disk.Disk.rebase = die
found = disk.open_disk(Store.open({str(tmp_path / "store")!r}), {str(tmp_path / "disk")!r})
found.write(0, b"written")
with control.ControlListener(found):
    print("open", flush=True)
    time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"open\n"
        snapshot_disk(small, tmp_path / "disk", name="snapshot")
        assert owner.wait(60) == 9
    finally:
        owner.kill()
        owner.wait()
    assert exported(small, "snapshot", tmp_path)[:8] == b"written\0"
    with open_disk(small, tmp_path / "disk") as disk:
        assert disk.read(0, 8) == b"written\0"
    state = read_state(tmp_path / "disk")
    assert (state.sealed is None) == (moment != "merged")  # who did not move over merges again with the next snapshot
    assert {pin.name for pin in small.pins()} == {"snapshot"} | ({state.owner} if state.base_root else set())


def test_owners_that_keep_going_end_in_an_error_that_invites_to_try_again(
    small: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "ATTACH_S", 0.3)
    create_disk(small, tmp_path / "disk", size=MIB)
    with open_disk(small, tmp_path / "disk") as disk, ControlListener(disk) as listener:
        monkeypatch.setattr(listener, "_slots", threading.BoundedSemaphore(1))
        assert listener._slots.acquire()  # it hangs up on everybody
        with pytest.raises(OwnerGone, match="try again"):
            snapshot_disk(small, tmp_path / "disk", name="snapshot")
        with pytest.raises(OwnerGone, match="try again"):
            resize_disk(small, tmp_path / "disk", 2 * MIB)
    assert issubclass(OwnerGone, StoreLocked)
    assert not small.ledger.has_pin("snapshot")


def test_owner_that_does_not_answer_is_given_up(small: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ANSWER_S", 0.3)
    create_disk(small, tmp_path / "disk", size=MIB)
    with open_disk(small, tmp_path / "disk") as disk, ControlListener(disk) as listener:
        monkeypatch.setattr(listener, "_serve", lambda connection: time.sleep(2))
        with pytest.raises(StoreLocked, match="does not answer"):
            resize_disk(small, tmp_path / "disk", 2 * MIB)


def test_control_socket_takes_no_nonsense(small: Store, tmp_path: Path) -> None:
    create_disk(small, tmp_path / "disk", size=MIB)
    with open_disk(small, tmp_path / "disk") as disk, ControlListener(disk):
        for line in (b"", b"{}", b"[]", b"\xff", b'{"verb": "rebase"}', b'{"verb": "release"}', b'{"verb": "resize"}'):
            with RemoteDisk(tmp_path / "disk") as asker:
                asker._socket.sendall(line + b"\n")
                assert b"UsageError" in asker._lines.readline()
        with RemoteDisk(tmp_path / "disk") as asker:
            assert asker.status() == disk.status()


@pytest.mark.parametrize("moment", ["merged", "pinned", "moved"])
def test_asker_killed_at_each_step(small: Store, tmp_path: Path, moment: str) -> None:
    """A real process, killed between the steps of a snapshot: nothing is lost, and nothing stays behind."""
    content = bytearray(disk_bytes(MIB, seed=2))
    bring(small, "image", bytes(content), tmp_path)
    create_disk(small, tmp_path / "disk", image="image")
    with open_disk(small, tmp_path / "disk") as disk:
        disk.write(1000, b"changed")
        content[1000:1007] = b"changed"
    program = f"""
import os
from dataplane.disks import snapshot
from dataplane.store.store import Store
def die(*_, **__): os._exit(9)
if {moment!r} == "merged": snapshot.PreparedSnapshot.pin = die
if {moment!r} == "pinned": snapshot.Disk.rebase = die
if {moment!r} == "moved": snapshot.settle_pins = die
snapshot.snapshot_disk(Store.open({str(tmp_path / "store")!r}), {str(tmp_path / "disk")!r}, name="snapshot")
"""
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ}, check=False)
    assert done.returncode == 9
    assert small.ledger.has_pin("snapshot") == (moment != "merged")
    state = read_state(tmp_path / "disk")
    assert (state.sealed is None) == (moment == "moved")
    collect(small, grace_s=0, undelete_s=0, fence_s=1)
    with open_disk(small, tmp_path / "disk") as disk:
        assert disk.read(0, disk.size) == content
        assert small.pin(state.owner).root.hex() == disk.state.base_root
        assert not small.ledger.has_pin(state.owner + NEXT)
        snapshot_disk(small, disk, name="again")
        assert disk.read(0, disk.size) == content
    names = {"image", "again", state.owner} | ({"snapshot"} if moment != "merged" else set())
    assert {pin.name for pin in small.pins()} == names
    for name in names - {"image"}:
        assert exported(small, name, tmp_path) == content
