"""Servers that stop, are killed, start again, or should not start at all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service._pb.yandex.cloud.compute.v1 import image_pb2
from service.operations.heartbeat import LEASE_S
from service.worker import IDLE_S
from tests.service.serving import DATAPLANE, Serving, serve
from tests.service.web import Web, serving

MIB = 1 << 20
RAW = os.urandom(12 * MIB)


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving() as made:
        yield made


def slow_import(server: Serving, web: Web, path: str) -> str:
    """Start an import that takes seconds; return its operation's id once it is under way."""
    operation = server.create(web.add(path, RAW, rate=3 * MIB), name="disk")
    server.until(lambda: server.reads(operation.id))
    return operation.id


def finishes(server: Serving, operation_id: str, timeout_s: float = 120) -> None:
    image = image_pb2.Image()
    assert server.finished(operation_id, timeout_s).response.Unpack(image)
    assert (image.status, image.name) == (image_pb2.Image.READY, "disk")


def test_sigterm_drains_and_the_import_goes_on_after_a_restart(tmp_path: Path, web: Web) -> None:
    with serve(tmp_path / "data") as server:
        operation_id = slow_import(server, web, "/drain.raw")
        began_s = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began_s < 10
        assert not [name for name in server.files() if name.startswith(("tmp/", "packs/"))]
    web.rates.clear()
    with serve(tmp_path / "data") as server:
        finishes(server, operation_id)


def test_killed_server_takes_its_workers_along_and_the_next_one_goes_on(tmp_path: Path, web: Web) -> None:
    with serve(tmp_path / "data") as server:
        operation_id = slow_import(server, web, "/killed.raw")
        worker = server.worker_of(operation_id)
        server.stop(signal.SIGKILL)
        server.until(lambda: None if alive(worker) else True, 10)
    web.rates.clear()
    with serve(tmp_path / "data") as server:
        finishes(server, operation_id)


def test_operation_of_workers_that_died_unseen_is_taken_over(tmp_path: Path, web: Web) -> None:
    """Nobody is told when a worker of another verb dies together with that verb: its lease has to run out."""
    assert LEASE_S + IDLE_S < 10  # seconds; the goal
    with serve(tmp_path / "data", workers=1) as server:
        busy = server.create(web.add("/busy.raw", RAW, rate=MIB / 2), folder_id="busy")
        server.worker_of(busy.id)  # the server's own
        command = [*DATAPLANE, "worker", "--data", str(tmp_path / "data"), "--workers", "1", "--dev"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=server.log.open("ab"), text=True) as verb:
            assert verb.stdout is not None
            assert verb.stdout.readline().startswith("working on")
            operation = server.create(web.add("/unseen.raw", RAW, rate=MIB), name="disk")
            worker = server.worker_of(operation.id)
            assert worker in children_of(verb.pid)
            server.until(lambda: server.reads(operation.id), 60)
            verb.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        web.rates.clear()
        finishes(server, operation.id, 120)
        assert server.worker_of(operation.id, epoch=2) != worker


def children_of(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_client_interrupted_while_it_waits_cancels_its_import(tmp_path: Path, web: Web) -> None:
    uri = web.add("/interrupt.raw", RAW, rate=3 * MIB)
    with serve(tmp_path / "data", workers=1) as server:
        where = ["--endpoint", server.endpoint, "--ca", str(server.ca), "--token", "t"]
        command = [*DATAPLANE, "image", "create", *where, "--folder", "f1", "--uri", uri, "--wait"]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        server.until(lambda: next((e for e in server.events() if e["event"] == "operation claimed"), None))
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=120)
        assert (run.returncode, out) == (130, "")
        assert "Traceback" not in err
        server.until(lambda: next((e for e in server.events() if e["event"] == "operation stopped"), None))


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "--dev"),
        (["--dev", "--listen", "0.0.0.0:0"], 2, "loopback"),
        (["--dev", "--listen", "nonsense"], 2, "HOST:PORT"),
        (["--dev", "--workers", "0"], 2, "--workers"),
        (["--dev", "--allow-source", "a/b"], 2, "--allow-source"),
    ],
)
def test_serve_that_cannot_start_says_why(tmp_path: Path, arguments: list[str], code: int, text: str) -> None:
    command = [*DATAPLANE, "serve", "--data", str(tmp_path / "data"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (code, "", 1), run.stderr
    assert text in run.stderr
    assert not (tmp_path / "data").exists()


def test_service_runs_as_a_module() -> None:
    run = subprocess.run([sys.executable, "-m", "service", "serve"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "--data" in run.stderr


def test_serve_on_a_port_in_use_says_so(tmp_path: Path, web: Web) -> None:
    command = [*DATAPLANE, "serve", "--data", str(tmp_path / "data"), "--dev", "--listen", web.address]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (run.returncode, run.stdout) == (1, "")
    assert f"cannot listen on {web.address}" in run.stderr.splitlines()[-1]


def test_serve_on_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "store").mkdir(parents=True)
    (tmp_path / "data" / "store" / "stranger").touch()
    command = [*DATAPLANE, "serve", "--data", str(tmp_path / "data"), "--dev", "--listen", "127.0.0.1:0"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (5, "", 1), run.stderr
