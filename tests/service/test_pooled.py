"""Pooled images: bounded by a quota, kept in files while they exist, read through them over NBD."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from dataplane import BootTrace, Store
from dataplane.engine.scan import xxh3
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service.catalog import image_rows
from service.nbd.pool_files import PoolFiles
from service.nbd.pool_keeper import PoolKeeper
from tests.disk.helpers import bring
from tests.disks import KIB, MIB, disk_bytes
from tests.service.control import CONTENT, TOKEN, ControlPlane
from tests.service.serving import Serving, serve
from tests.service.test_image_calls import delete, get_image, refused
from tests.service.test_serve_disks import disk_of
from tests.service.test_serve_nbd import FLAGS, export, run, url, wait_until_closed
from tests.service.web import serving

EXHAUSTED = (grpc.StatusCode.RESOURCE_EXHAUSTED, ["folder:f1/pooled_images"])
DATA = disk_bytes(8 * MIB, seed=12)
CHUNK = 64 * KIB


# ---------------------------------------------------------------------------------------------- the quota
def test_quota_bounds_the_pooled_images_of_a_folder(limited: Callable[..., ControlPlane]) -> None:
    control = limited(pooled_images=1)
    plain, pooled = control.ready(), control.ready(pooled=True)
    assert (get_image(control, plain).pooled, get_image(control, pooled).pooled) == (False, True)
    assert refused(lambda: control.create(pooled=True))[::2] == EXHAUSTED
    assert refused(lambda: control.create(image_id=plain, pooled=True))[::2] == EXHAUSTED
    assert control.create(image_id=pooled).done  # the copy is not pooled
    assert control.create(pooled=True, folder_id="f2").id
    delete(control, pooled)
    assert control.create(image_id=plain, pooled=True).done
    assert refused(lambda: control.create(pooled=True))[::2] == EXHAUSTED


def test_quota_of_none_refuses_the_first(limited: Callable[..., ControlPlane]) -> None:
    control = limited(pooled_images=0)
    assert refused(lambda: control.create(pooled=True))[::2] == EXHAUSTED
    assert control.create().id


def test_pooled_images_that_are_ready_are_found(control: ControlPlane) -> None:
    control.ready()
    found = [control.ready(pooled=True), control.ready(pooled=True)]
    control.create(pooled=True)
    with control.database.read() as tx:
        assert image_rows.pooled(tx) == [(image_id, CONTENT.root) for image_id in found]


def test_update_has_no_pooled(control: ControlPlane) -> None:
    request = images.UpdateImageRequest(image_id=control.ready(pooled=True), name="n")
    request.update_mask.paths.append("pooled")
    assert refused(lambda: control.images.Update(request, metadata=TOKEN))[0] is grpc.StatusCode.INVALID_ARGUMENT


# ---------------------------------------------------------------------------------------------- the files
@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "store") as made:
        bring(made, "one", DATA, tmp_path)
        bring(made, "two", disk_bytes(MIB, seed=13), tmp_path)
        yield made


def files_of(store: Store, *, size_max: int = 2 * MIB, total_max: int = 64 * MIB) -> PoolFiles:
    files = PoolFiles(store.layout.root.with_name("pool"), store, size_max=size_max, total_max=total_max)
    files.prepare()
    return files


def root_of(store: Store, name: str) -> bytes:
    return store.ledger.pin(name).root


def test_files_keep_to_the_total(store: Store) -> None:
    one, two = root_of(store, "one"), root_of(store, "two")
    files = files_of(store, total_max=3 * MIB)
    assert files.build("one", one)
    assert not files.build("two", two)
    assert files.usage()[0] == 1
    assert files.is_current(one)
    assert files.build("one", one)  # anew, in its own place
    smaller = files_of(store, size_max=MIB, total_max=3 * MIB)
    assert not smaller.is_current(one)
    assert smaller.build("one", one)
    assert smaller.is_current(one)
    assert smaller.build("two", two)
    count, size = smaller.usage()
    assert (count, size <= 2 * MIB) == (2, True)


def test_damaged_file_is_removed_to_be_made_anew(store: Store) -> None:
    root = root_of(store, "one")
    files = files_of(store)
    files.build("one", root)
    good = files.path(root).read_bytes()
    for at in (100, len(good) - 1):
        files.path(root).write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        pool = files.open(root)
        if pool is not None:
            ids = [pool._table[at : at + 32] for at in range(0, 64 * pool.count, 64)]
            assert None in [pool.get(id) for id in ids]
        assert not files.is_current(root)
        assert files.open(root) is None
        files.build("one", root)
        assert files.open(root) is not None


def test_first_disk_that_reads_enough_says_what_is_read_first(store: Store) -> None:
    root = root_of(store, "one")
    files = files_of(store)
    assert files.trace_for(root) is None  # not pooled
    files.build("one", root)
    trace = files.trace_for(root)
    assert trace is not None
    trace.note(0, 4096)
    files.save_trace(root, trace)
    assert files.is_current(root)  # too little to go by
    trace.note(6 * MIB, MIB)
    files.save_trace(root, trace)
    assert files.trace_for(root) is None
    os.utime(files.path(root), (1, 1))
    assert not files.is_current(root)
    files.build("one", root)
    assert files.is_current(root)
    pool = files.open(root)
    assert pool is not None
    wanted = {DATA[at : at + CHUNK] for at in (0, *range(6 * MIB, 7 * MIB, CHUNK))} - {bytes(CHUNK)}
    assert pool.count == len(wanted) + 1
    other = BootTrace()
    other.note(0, 4 * MIB)
    files.save_trace(root, other)  # another disk was quicker
    files.path(root, ".trace").write_text("nonsense\n")
    files.build("one", root)
    assert not files.path(root, ".trace").exists()


def test_what_no_image_needs_is_removed(store: Store) -> None:
    one, two = root_of(store, "one"), root_of(store, "two")
    files = files_of(store)
    for name, root in (("one", one), ("two", two)):
        files.build(name, root)
        files.path(root, ".trace").write_text("")
    fresh, old = files.path(one, ".pool.1.building"), files.path(one, ".pool.2.building")
    fresh.touch()
    old.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    files.remove_all_but({one})
    left = {path.name for path in fresh.parent.iterdir()}
    assert left == {files.path(one).name, files.path(one, ".trace").name, fresh.name}


def test_keeper_goes_on_after_an_image_that_cannot_be_pooled(control: ControlPlane, store: Store) -> None:
    control.ready(pooled=True)  # with a root that no store has
    files = files_of(store)
    files.build("one", root_of(store, "one"))
    keeper = PoolKeeper(control.database, files, enabled=True)
    try:
        keeper.look()
        keeper.look()
    finally:
        keeper.stop()
    assert files.usage() == (0, 0)


# ---------------------------------------------------------------------------------------------- the whole
def forge(path: Path, before: bytes, after: bytes) -> None:
    """Put `after` in the place of the chunk `before`, as if the file had been made so."""
    pool = bytearray(path.read_bytes())
    count = struct.unpack_from("<I", pool, 12)[0]
    for at in range(80, 80 + 64 * count, 64):
        offset, length = struct.unpack_from("<QI", pool, at + 48)
        if pool[offset : offset + length] == before:
            pool[offset : offset + length] = after
            pool[at + 32 : at + 48] = xxh3(after)
    pool[64:80] = xxh3(bytes(pool[:64] + pool[80 : 80 + 64 * count]))
    path.write_bytes(pool)


def pools(server: Serving) -> list[Path]:
    return sorted((server.data / "pool").glob("*.pool"))


def test_disk_of_a_pooled_image_is_read_through_its_file(tmp_path: Path) -> None:
    first = next(DATA[at : at + CHUNK] for at in range(0, len(DATA), CHUNK) if any(DATA[at : at + CHUNK]))
    forged = b"from the pool".ljust(CHUNK, b"!")
    with serving() as web, serve(tmp_path / "data", flags=FLAGS) as server:
        plain = server.ready(web.add("/plain.raw", disk_bytes(MIB, seed=14)))
        image = server.ready(web.add("/disk.raw", DATA), pooled=True)
        assert (plain.pooled, image.pooled) == (False, True)
        server.until(lambda: pools(server) or None, timeout_s=60)
        (path,) = pools(server)
        forge(path, first, forged)
        disk = disk_of(server, image_id=image.id)
        read = run("nbdcopy", url(server, export(server, disk.id, read_only=True)), "-")
        assert read.stdout[: len(DATA)] == DATA.replace(first, forged)
        wait_until_closed(server)
        server.until(lambda: True if forged not in path.read_bytes() else None, timeout_s=60)  # made from the trace
        server.images.Delete(images.DeleteImageRequest(image_id=image.id))
        server.until(lambda: True if not list(path.parent.iterdir()) else None, timeout_s=60)
        read = run("nbdcopy", url(server, export(server, disk.id, read_only=True)), "-")
        assert read.stdout[: len(DATA)] == DATA  # the store is enough
        wait_until_closed(server)


def test_files_that_no_image_has_go_when_the_server_starts_and_missing_ones_come(tmp_path: Path) -> None:
    with serving() as web:
        with serve(tmp_path / "data", flags=FLAGS) as server:
            server.ready(web.add("/disk.raw", DATA), pooled=True)
            server.until(lambda: pools(server) or None, timeout_s=60)
            (path,) = pools(server)
        path.rename(path.with_name("f" * 64 + ".pool"))
        with serve(tmp_path / "data", flags=FLAGS) as server:
            server.until(lambda: True if pools(server) == [path] else None, timeout_s=60)
        with serve(tmp_path / "data", flags=(*FLAGS, "--pool-size", "0")) as server:
            server.until(lambda: True if not pools(server) else None, timeout_s=60)
