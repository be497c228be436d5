"""Servers and workers killed, and operations cancelled, at any moment: everything ends, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import sqlalchemy as sa
from google.rpc import code_pb2, status_pb2

from dataplane import Store
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.operation import operation_service_pb2 as operations
from service.catalog import schema
from service.catalog.database import Database
from service.model import Status
from tests.faults.figures import Figures
from tests.service.serving import Serving
from tests.service.test_serve import image_id_of
from tests.service.web import Web, serving

MIB = 1 << 20
SETTLE_S = 900.0
"""For a machine that is busy with much else."""

FOLDERS = ("f1", "f2")
CALLS = ("Create", "Create of a copy", "Cancel", "Delete")
NAMES = {"worker": "a worker", "server": "the server", "both": "the server and its workers"}
ENDINGS = (code_pb2.OK, code_pb2.CANCELLED, code_pb2.INTERNAL)  # INTERNAL: its workers were killed three times


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving() as made:
        for index in range(4):
            noise = random.Random(index)
            content = b"".join(noise.choice((bytes(MIB), noise.randbytes(MIB))) for _ in range(4))
            made.add(f"/{index}.raw", content, rate=noise.choice((8, 16, 64)) * MIB)
        yield made


class Customers:
    """Threads that create, copy, cancel and delete as they like, whether or not there is a server."""

    def __init__(self, web: Web, seed: int) -> None:
        self.server: Serving | None = None
        self.created: dict[str, str] = {}  # operation to image
        self.deleted: set[str] = set()
        self._web = web
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._allowed = 12
        self._calls: Counter[str] = Counter()
        self._called = threading.Condition()
        self._threads = [threading.Thread(target=self._live, daemon=True) for _ in range(3)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def allow_more(self) -> None:
        """Let them create some more: on a slow machine they would soon have queued hours of work."""
        self._allowed += 4

    def wait_for_call(self, name: str, timeout_s: float) -> bool:
        """Return once a customer begins such a call, or with False when none does."""
        with self._called:
            before = self._calls[name]
            return self._called.wait_for(lambda: self._calls[name] > before, timeout_s)

    def _begin(self, name: str) -> None:
        with self._called:
            self._calls[name] += 1
            self._called.notify_all()

    def _live(self) -> None:
        while not self._stopping.wait(self._random.uniform(0.01, 0.2)):
            server = self.server
            if server is None:
                continue
            with contextlib.suppress(grpc.RpcError, ValueError):  # the server is killed, or the channel closed
                self._act(server)

    def _act(self, server: Serving) -> None:
        known = list(self.created.items())
        choice = self._random.uniform(0.0 if len(known) < self._allowed else 0.65, 1.0)
        if choice < 0.5 or not known:
            self._begin("Create")
            uri = self._web.url(f"/{self._random.randrange(4)}.raw")
            request = images.CreateImageRequest(folder_id=self._random.choice(FOLDERS), uri=uri)
            self._note(server, request)
        elif choice < 0.65:
            self._begin("Create of a copy")
            request = images.CreateImageRequest(
                folder_id=self._random.choice(FOLDERS), image_id=self._random.choice(known)[1]
            )
            self._note(server, request)
        elif choice < 0.8:
            self._begin("Cancel")
            operation_id, _ = self._random.choice(known[-8:])
            server.operations.Cancel(operations.CancelOperationRequest(operation_id=operation_id), timeout=5)
        else:
            self._begin("Delete")
            image_id = self._random.choice(known)[1]
            server.images.Delete(images.DeleteImageRequest(image_id=image_id), timeout=5)
            self.deleted.add(image_id)

    def _note(self, server: Serving, request: images.CreateImageRequest) -> None:
        operation = server.images.Create(request, timeout=5)
        self.created[operation.id] = image_id_of(operation)


def workers_of(server: Serving) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{server.process.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def kill(server: Serving, victims: str, chance: random.Random) -> None:
    pids = workers_of(server) if victims in ("worker", "both") else []
    if victims == "worker":
        pids = chance.sample(pids, min(1, len(pids)))
    if victims in ("server", "both"):
        pids.append(server.process.pid)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for_moment(customers: Customers, chance: random.Random) -> str:
    """Wait for the moment of a kill and name it: while a certain call is served, or just any time."""
    call = chance.choice(CALLS)
    if chance.random() < 0.5 and customers.wait_for_call(call, 2.0):
        time.sleep(chance.uniform(0.0, 0.04))
        return f"during {call}"
    time.sleep(chance.uniform(0.0, 0.5))
    return "at any time"


def run_and_kill(data: Path, web: Web, kills: int, seed: int, figures: Figures) -> Customers:
    """Let customers at a server and kill it, its workers or both `kills` times; return them when all is quiet."""
    chance = random.Random(seed)
    customers = Customers(web, seed)
    server = Serving(data, workers=2)
    customers.server = server
    customers.start()
    try:
        for _ in range(kills):
            moment = wait_for_moment(customers, chance)
            victims = chance.choices(("worker", "server", "both"), (6, 2, 2))[0]
            kill(server, victims, chance)
            customers.allow_more()
            figures.add(f"SIGKILL of {NAMES[victims]}", moment, 1)
            if victims != "worker":
                customers.server = None
                server.process.wait(SETTLE_S)
                server.stop()
                server = Serving(data, workers=2)
                customers.server = server
    except BaseException:
        server.stop(signal.SIGKILL)
        raise
    finally:
        customers.stop()
    settle(server, customers)
    return customers


def settle(server: Serving, customers: Customers) -> None:
    """Wait until every operation has ended and what the killed left behind is cleared away; stop the server."""
    try:
        for operation_id in customers.created:
            server.finished(operation_id, SETTLE_S)
        server.until(lambda: None if unfinished(server.store) else True, SETTLE_S)
        server.until(server.without_work_files, SETTLE_S)
    finally:
        server.stop()


def unfinished(store: Path) -> int:
    with Store.open(store) as opened, contextlib.closing(Database.beside(opened)) as database, database.read() as tx:
        undone = sa.select(sa.func.count()).where(schema.operations.c.done.is_(sa.false()))
        return int(tx.execute(undone).scalar_one())


def check_nothing_is_left(data: Path, figures: Figures) -> dict[str, bytes]:
    """Compare catalogue and store after all has ended; return the READY images and their roots."""
    path = data / "store"
    with Store.open(path) as store, contextlib.closing(Database.beside(store)) as database, database.read() as tx:
        rows = tx.execute(sa.select(schema.images)).mappings().all()
        ended = tx.execute(sa.select(schema.operations)).mappings().all()
        leases = tx.exec_driver_sql("SELECT count(*) FROM leases").scalar()
    assert {row["status"] for row in rows} <= {Status.READY}
    for row in ended:
        assert row["done"]
        assert (row["error"] is None) != (row["response"] is None)
        assert (row["source"], row["fresh_source"], row["held_pin"]) == (None, None, None)
        code = status_pb2.Status.FromString(row["error"]).code if row["error"] is not None else 0
        assert code in ENDINGS
        figures.add("operations that ended", code_pb2.Code.Name(code), 1)
    with Store.open(path) as store:
        pins = {pin.name: pin.root for pin in store.pins()}
        packs, runs = store.ledger.packs(), store.ledger.runs()
    assert pins == {row["id"]: row["root"] for row in rows}
    assert leases == 0
    assert len(list((path / "packs").rglob("*.pack"))) == len(packs)
    assert len([one for one in (path / "runs").rglob("*") if one.is_file()]) == len(runs)
    return pins


def check_kills(data: Path, web: Web, kills: int, seed: int, figures: Figures) -> None:
    customers = run_and_kill(data, web, kills, seed, figures)
    pins = check_nothing_is_left(data, figures)
    assert customers.created
    assert not pins.keys() & customers.deleted
    assert len(set(pins.values())) <= 4 * len(FOLDERS)  # each disk has one root in each folder, however often it died


def test_killed_at_any_moment_everything_ends_and_nothing_is_left(tmp_path: Path, web: Web, figures: Figures) -> None:
    check_kills(tmp_path / "data", web, kills=8, seed=1, figures=figures)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_a_thousand_times(tmp_path: Path, web: Web, seed: int, figures: Figures) -> None:
    check_kills(tmp_path / "data", web, kills=100, seed=100 + seed, figures=figures)


def cancel_at_random(data: Path, web: Web, cancels: int, seed: int, figures: Figures) -> None:
    server = Serving(data, workers=2)
    chance = random.Random(seed)
    moments = [chance.uniform(0.0, 0.6) for _ in range(cancels)]

    def one(moment: float) -> int:
        uri = web.url(f"/{int(moment * 1000) % 4}.raw")
        operation = server.create(uri, folder_id=FOLDERS[int(moment * 100) % 2])
        time.sleep(moment)
        server.cancel(operation.id)
        ended: int = server.finished(operation.id, SETTLE_S).error.code
        return ended

    try:
        with ThreadPoolExecutor(4) as pool:
            codes = list(pool.map(one, moments))
        server.until(server.without_work_files, SETTLE_S)
    finally:
        server.stop()
    assert set(codes) <= {code_pb2.OK, code_pb2.CANCELLED}
    assert code_pb2.CANCELLED in codes
    figures.add("Cancel", "before the end", codes.count(code_pb2.CANCELLED))
    figures.add("Cancel", "after the end", codes.count(code_pb2.OK))
    assert len(check_nothing_is_left(data, figures)) == codes.count(code_pb2.OK)


def test_cancelled_at_any_moment_nothing_is_left(tmp_path: Path, web: Web, figures: Figures) -> None:
    cancel_at_random(tmp_path / "data", web, cancels=20, seed=2, figures=figures)


@pytest.mark.slow
def test_cancelled_two_hundred_times(tmp_path: Path, web: Web, figures: Figures) -> None:
    cancel_at_random(tmp_path / "data", web, cancels=200, seed=3, figures=figures)
