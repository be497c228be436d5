"""A quick pool runs everything once, tells of it, and goes on after work that failed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service.quick_pool import QuickPool
from tests.service.control import TOKEN, running


def test_all_work_is_run_and_told_of() -> None:
    pool = QuickPool(2, "test")
    done: list[int] = []
    told: list[object] = []
    last = threading.Semaphore(0)

    def tell(future: object) -> None:
        told.append(future)
        last.release()

    for number in range(100):
        pool.submit(done.append, number).add_done_callback(tell)
    assert all(last.acquire(timeout=120) for _ in range(100))
    assert sorted(done) == list(range(100))
    assert len(set(map(id, told))) == 100


def test_callback_of_work_that_has_ended_is_called_at_once() -> None:
    pool, ended = QuickPool(1, "test"), threading.Event()
    told: list[object] = []
    future = pool.submit(int)
    pool.submit(ended.set)
    assert ended.wait(30)
    future.add_done_callback(told.append)
    assert told == [future]


def test_work_that_fails_is_told_of_and_others_follow() -> None:
    pool, told, after = QuickPool(1, "test"), threading.Event(), threading.Event()
    pool.submit(int, "x").add_done_callback(lambda _future: told.set())
    pool.submit(after.set)
    assert told.wait(30)
    assert after.wait(30)


def test_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match="keyword"):
        QuickPool(1, "test").submit(int, base=2)


def test_gets_run_in_threads_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    with running(tmp_path) as plane:
        image_id = plane.ready(name="a")
        look_up = plane.database.lookup.first

        def noted(*arguments: object) -> object:
            names.append(threading.current_thread().name)
            return look_up(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(plane.database.lookup, "first", noted)
        request = images.GetImageRequest(image_id=image_id)
        with ThreadPoolExecutor(8) as callers:
            found = list(callers.map(lambda _: plane.images.Get(request, metadata=TOKEN).name, range(64)))
    assert found == ["a"] * 64
    assert {name.rpartition("-")[0] for name in names} == {"quick"}
