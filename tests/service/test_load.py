"""Many clients that create at once: no image is lost or doubled, whatever they share; memory is bounded."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import grpc
import pytest

from service._pb.yandex.cloud.compute.v1 import image_pb2, image_service_pb2_grpc
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from tests.faults.figures import Figures
from tests.service.serving import Serving, serve
from tests.service.test_serve import image_id_of
from tests.service.web import Web, serving

CLIENTS = 20
URLS = 10
SOURCE_SIZE = 64 << 10
MEMORY_MAX = 512 << 20
"""Bytes that the server's process may ever have had in memory."""

SETTLE_S = 900.0
"""For a machine that is busy with much else."""


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving() as made:
        for index in range(URLS):
            made.add(f"/{index}.raw", random.Random(index).randbytes(SOURCE_SIZE))
        yield made


def create_from_clients(server: Serving, web: Web, each: int) -> tuple[dict[str, str], Counter[grpc.StatusCode]]:
    """Let 20 clients with connections of their own create at once: unnamed from one URL, unnamed from many, one name.

    Returns the image of each operation, and the codes of refusals.
    """
    together = Barrier(CLIENTS)
    made: dict[str, str] = {}
    refused: Counter[grpc.StatusCode] = Counter()
    credentials = grpc.ssl_channel_credentials(server.ca.read_bytes())
    token = (("authorization", "Bearer load"),)

    def client(index: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(server.endpoint, credentials, options=options) as channel:
            stub = image_service_pb2_grpc.ImageServiceStub(channel)
            stub.List(images.ListImagesRequest(folder_id="load"), wait_for_ready=True, metadata=token)
            together.wait()
            for number in range(each):
                request = images.CreateImageRequest(folder_id="load", uri=web.url(f"/{(index + number) % URLS}.raw"))
                if index % 3 == 0:
                    request.uri = web.url("/0.raw")
                elif index % 3 == 1:
                    request.name = f"name-{number}"
                try:
                    operation = stub.Create(request, metadata=token)
                    made[operation.id] = image_id_of(operation)
                except grpc.RpcError as error:
                    refused[error.code()] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    return made, refused


def listed(server: Serving) -> dict[str, image_pb2.Image]:
    found = server.images.List(images.ListImagesRequest(folder_id="load", page_size=1000)).images
    return {image.id: image for image in found}


def check_load(data: Path, web: Web, each: int, figures: Figures) -> None:
    with serve(data, workers=2) as server:
        made, refused = create_from_clients(server, web, each)
        named = len([index for index in range(CLIENTS) if index % 3 == 1])
        assert refused == Counter({grpc.StatusCode.ALREADY_EXISTS: (named - 1) * each})
        assert len(made) == len(set(made.values())) == CLIENTS * each - (named - 1) * each
        for operation_id, image_id in made.items():
            done = server.finished(operation_id, SETTLE_S)
            assert done.WhichOneof("result") == "response", done.error
            assert image_id_of(done) == image_id
        found = listed(server)
        peak = server.memory_peak()
    assert found.keys() == set(made.values())
    assert {image.status for image in found.values()} == {image_pb2.Image.READY}
    assert Counter(image.name for image in found.values() if image.name) == {f"name-{one}": 1 for one in range(each)}
    assert peak < MEMORY_MAX
    figures.add("MiB of the server at most", f"{CLIENTS * each} Creates from {CLIENTS} clients", peak >> 20)


def test_creates_at_once_lose_and_double_nothing(tmp_path: Path, web: Web, figures: Figures) -> None:
    check_load(tmp_path / "data", web, 2, figures)


@pytest.mark.slow
def test_two_hundred_creates_at_once_lose_and_double_nothing(tmp_path: Path, web: Web, figures: Figures) -> None:
    check_load(tmp_path / "data", web, 10, figures)
