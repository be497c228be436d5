"""Imports of the service whose worker or server is killed go on from their checkpoint, or leave none behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane import Store
from dataplane.ingest import importing
from dataplane.store.checkpoints import checkpoints
from service._pb.yandex.cloud.compute.v1 import image_pb2
from tests.service.serving import Serving, serve
from tests.service.web import Web, serving

MIB = 1 << 20
RAW = os.urandom(40 * MIB)

# Python imports a module of this name when it starts: so workers, which are processes of their own, are hurried too.
SITECUSTOMIZE = """
from dataplane.ingest import checkpointing, prefetch
checkpointing.INTERVAL_SIZE, checkpointing.INTERVAL_MIN_S, checkpointing.SHARE = 1, 0.0, 0.0
prefetch.MEMORY_MAX = 12 << 20
"""


@pytest.fixture
def hurried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make checkpoints as often as a short test needs them."""
    folder = tmp_path / "hurried"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    root = Path(importing.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(root), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as made:
        yield made


def rows(server: Serving) -> list[tuple[str, int]]:
    """Return owner and position of every checkpoint."""
    with Store.open(server.store) as store:
        return [(one.owner, one.position) for one in checkpoints(store.ledger)]


def held_import(server: Serving, web: Web, path: str) -> tuple[str, int]:
    """Start an import that gets as far as a checkpoint and no further; return its operation's id, and where it is."""
    uri = web.add(path, RAW)
    web.hanging[path] = range(30 * MIB, 36 * MIB)  # not the end, which is probed
    operation = server.create(uri, name="disk")
    ((owner, position),) = server.until(lambda: rows(server) or None, 60)
    assert owner == operation.id
    return operation.id, position


def finishes(server: Serving, operation_id: str) -> None:
    image = image_pb2.Image()
    assert server.finished(operation_id, 60).response.Unpack(image)
    assert image.status == image_pb2.Image.READY
    assert rows(server) == []


def again(web: Web, position: int) -> list[tuple[int, int]]:
    """Return which ranges before `position` were asked for, but for the head."""
    return [(first, last) for first, last in web.ranges if 0 < first < position]


def test_killed_worker_is_replaced_by_one_that_goes_on(tmp_path: Path, hurried: None, web: Web) -> None:
    with serve(tmp_path / "data", workers=1) as server:
        operation_id, position = held_import(server, web, "/killed.raw")
        web.hanging.clear()
        web.ranges.clear()
        os.kill(server.worker_of(operation_id), signal.SIGKILL)
        finishes(server, operation_id)
        assert again(web, position) == []


def test_drained_server_leaves_a_checkpoint_for_the_next(tmp_path: Path, hurried: None, web: Web) -> None:
    with serve(tmp_path / "data", workers=1) as server:
        operation_id, position = held_import(server, web, "/drained.raw")
        assert server.stop() == 0
        assert [owner for owner, _ in rows(server)] == [operation_id]
    web.hanging.clear()
    web.ranges.clear()
    with serve(tmp_path / "data", workers=1) as server:
        finishes(server, operation_id)
        assert again(web, position) == []


@pytest.mark.parametrize("idle", [False, True])
def test_cancelled_operation_leaves_no_checkpoint(tmp_path: Path, hurried: None, web: Web, idle: bool) -> None:
    with serve(tmp_path / "data", workers=1) as server:
        operation_id, _ = held_import(server, web, "/cancelled.raw")
        if not idle:
            server.cancel(operation_id)
            assert server.finished(operation_id).HasField("error")
            server.until(lambda: None if rows(server) else True)
            return
        server.stop()
    with serve(tmp_path / "data", workers=1) as server:
        server.cancel(operation_id)
        assert server.finished(operation_id).HasField("error")
        server.until(lambda: None if rows(server) else True)


def test_failed_operation_leaves_no_checkpoint(tmp_path: Path, hurried: None, web: Web) -> None:
    with serve(tmp_path / "data", workers=1) as server:
        operation_id, _ = held_import(server, web, "/failed.raw")
        del web.files["/failed.raw"]  # the next request gets a 404
        web.released.set()
        assert server.finished(operation_id, 60).HasField("error")
        server.until(lambda: None if rows(server) else True)
