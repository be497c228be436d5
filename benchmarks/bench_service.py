"""The image service under load: how soon Create answers, and how many Gets a core serves, while workers import."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import pytest

from benchmarks.bare_server import bare_server
from benchmarks.beside import Goal, Result
from benchmarks.conftest import RESULTS
from benchmarks.range_server import range_server
from dataplane.limits import MIB
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.compute.v1 import image_service_pb2_grpc
from tests.service.serving import Serving, serve

CREATE_GOAL = Goal("answer of Create, 99th percentile of 200 at once from 20 clients, of 100 ms", "at most", 1.0)
GET_GOAL = Goal("Gets a second on one core while importing, of 2,000", "at least", 1.0)
MEMORY_GOAL = Goal("memory of the server after 200 Creates at once, of 512 MiB", "at most", 1.0)
CREATES, CLIENTS = 200, 20
ANSWER_S = 0.1
GETS_PER_S = 2000
MEMORY_MAX = 512 * MIB
CONNECTIONS = 4
"""Of each of two processes that only get."""
ROUNDS = 5
SECONDS = 4.0
TOKEN = (("authorization", "Bearer bench"),)
"""Not as call credentials: for those gRPC starts a thread for each call of the client, which shares the machine."""

Target = tuple[str, bytes, str]  # endpoint, authority, image


@pytest.fixture
def busy(tmp_path: Path, disk: Path) -> Iterator[tuple[Serving, str]]:
    """A server whose two workers import all the time, and where a small image is."""
    web = tmp_path / "web"
    web.mkdir()
    (web / "large.raw").symlink_to(disk)
    (web / "small.raw").write_bytes(random.Random(-1).randbytes(MIB))
    with range_server(web) as address, serve(tmp_path / "data", workers=2) as server:
        stopping = threading.Event()

        def feed() -> None:
            while not stopping.is_set():
                with contextlib.suppress(grpc.RpcError):
                    started = [
                        server.create(f"{address}large.raw", folder_id=f"busy{os.urandom(3).hex()}") for _ in "ab"
                    ]
                    for operation in started:
                        while not stopping.is_set() and not server.operation(operation.id).done:
                            time.sleep(0.2)

        thread = threading.Thread(target=feed, daemon=True)
        thread.start()
        yield server, f"{address}small.raw"
        stopping.set()
        thread.join()


def channel(target: Target) -> grpc.Channel:
    """Return a connection of its own, as another client would have."""
    endpoint, authority, _ = target
    credentials = grpc.ssl_channel_credentials(authority)
    return grpc.secure_channel(endpoint, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


def create_all(server: Serving, uri: str) -> list[float]:
    """Create 200 images from 20 clients at once; return how long each answer took, in seconds."""
    target = (server.endpoint, server.ca.read_bytes(), "")
    together = threading.Barrier(CLIENTS)

    def client(index: int) -> list[float]:
        took = []
        with channel(target) as own:
            stub = image_service_pb2_grpc.ImageServiceStub(own)
            stub.List(images.ListImagesRequest(folder_id="bench"), wait_for_ready=True, metadata=TOKEN)
            together.wait()
            for _ in range(CREATES // CLIENTS):
                started = time.perf_counter()
                stub.Create(images.CreateImageRequest(folder_id=f"bench{index}", uri=uri), metadata=TOKEN)
                took.append(time.perf_counter() - started)
        return took

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sorted(second for took in pool.map(client, range(CLIENTS)) for second in took)


def note(
    benchmark: Any,
    name: str,
    baseline: str,
    ratios: list[float],
    best: float,
    goal: Goal | None,
    by_processor: list[float] | None = None,
) -> None:
    """Keep what came out as the other benchmarks do."""
    result = Result(
        name=name,
        rate=None,
        baseline=baseline,
        baseline_rate=None,
        ratio=median(ratios),
        ratio_best=best,
        ratio_cpu=median(by_processor) if by_processor else None,
        goal=goal,
    )
    benchmark.extra_info.update(result.info())
    RESULTS.append(result)


def test_create_answers_at_once(benchmark: Any, busy: tuple[Serving, str]) -> None:
    server, small = busy
    ratios: list[float] = []

    def turn() -> None:
        took = create_all(server, small)
        assert len(took) == CREATES
        ratios.append(took[int(CREATES * 0.99) - 1] / ANSWER_S)

    benchmark.pedantic(turn, rounds=ROUNDS, iterations=1, warmup_rounds=1)
    note(benchmark, "create_answers_at_once", "100 ms", ratios, min(ratios), CREATE_GOAL)


def test_memory_of_the_server(benchmark: Any, busy: tuple[Serving, str]) -> None:
    server, small = busy
    ratios: list[float] = []

    def turn() -> None:
        create_all(server, small)
        ratios.append(server.memory_peak() / MEMORY_MAX)

    benchmark.pedantic(turn, rounds=2, iterations=1)
    note(benchmark, "memory_of_the_server", "512 MiB", ratios, min(ratios), MEMORY_GOAL)


def processor_s(pid: int) -> float:
    """Return the seconds of processor time that all threads of a process have taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def get_until_told(target: Target, ready: Any, go: Any, stop: Any, count: Any) -> None:
    """Get one image again and again, from a few threads of a process of its own."""
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})

    def work(stub: image_service_pb2_grpc.ImageServiceStub) -> int:
        request, done = images.GetImageRequest(image_id=target[2]), 0
        stub.Get(request, wait_for_ready=True, metadata=TOKEN)
        ready.release()
        go.wait()
        while not stop.is_set():
            stub.Get(request, metadata=TOKEN)
            done += 1
        return done

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(CONNECTIONS) as pool:
        stubs = [
            image_service_pb2_grpc.ImageServiceStub(stack.enter_context(channel(target))) for _ in range(CONNECTIONS)
        ]
        total = sum(pool.map(work, stubs))
    with count.get_lock():
        count.value += total


def keep_on_one_core(pid: int) -> None:
    """Let every thread of a process run on one core only."""
    core = min(os.sched_getaffinity(0))
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), {core})


def test_gets_of_one_core(benchmark: Any, busy: tuple[Serving, str]) -> None:
    server, small = busy
    image = server.ready(small, folder_id="bench")
    target = (server.endpoint, server.ca.read_bytes(), image.id)
    keep_on_one_core(server.process.pid)
    context = multiprocessing.get_context("spawn")

    def turn(pid: int, target: Target) -> float:
        """Return Gets a second, and keep how many there were for each second of the server's processor time."""
        ready, go, stop, count = context.Semaphore(0), context.Event(), context.Event(), context.Value("q", 0)
        clients = [context.Process(target=get_until_told, args=(target, ready, go, stop, count)) for _ in "ab"]
        for client in clients:
            client.start()
        for _ in range(len(clients) * CONNECTIONS):
            ready.acquire()
        began_s = processor_s(pid)
        go.set()
        time.sleep(SECONDS)
        stop.set()
        for client in clients:
            client.join()
        # What a core of its own would do: the importing workers, and whatever else runs here, take from the other.
        by_processor[pid].append(count.value / (processor_s(pid) - began_s))
        return float(count.value / SECONDS)

    with bare_server(image, server.ca.parent) as (bare_pid, bare_endpoint):
        keep_on_one_core(bare_pid)
        bare = (bare_endpoint, *target[1:])
        by_processor: dict[int, list[float]] = {server.process.pid: [], bare_pid: []}
        ratios = []

        def both() -> None:
            turn(bare_pid, bare)
            ratios.append(turn(server.process.pid, target) / GETS_PER_S)

        benchmark.pedantic(both, rounds=3, iterations=1)
    ours, floor = median(by_processor[server.process.pid]), median(by_processor[bare_pid])
    note(
        benchmark,
        "gets_beside_bare_grpc",
        f"a bare gRPC server: {floor:,.0f} a second",
        [ours / floor],
        ours / floor,
        None,
    )
    note(benchmark, "gets_of_one_core", "2,000 a second", ratios, max(ratios), GET_GOAL, [ours / GETS_PER_S])
