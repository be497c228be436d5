"""Images made from images, and URLs that expire, on a real server with real workers and a real store."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2

from service._pb.dataplane.v1 import image_details_pb2 as details
from service._pb.yandex.cloud.compute.v1 import image_pb2
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.operation import operation_pb2
from tests.service.control import refusal
from tests.service.serving import Serving, serve
from tests.service.test_serve import gone, image_id_of, pins
from tests.service.web import Web, serving

MIB = 1 << 20
RAW = random.Random(11).randbytes(5 * MIB) + bytes(9 * MIB) + random.Random(12).randbytes(2 * MIB)

LONG = random.Random(13).randbytes(64 * MIB)  # takes more requests than are under way at once


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving() as made:
        made.add("/disk.raw", RAW)
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serve(tmp_path_factory.mktemp("copies") / "data") as made:
        yield made


def copy_of(server: Serving, source: str, folder_id: str) -> operation_pb2.Operation:
    return server.images.Create(images.CreateImageRequest(folder_id=folder_id, image_id=source))


def sizes(server: Serving, image_id: str) -> details.ImageSizes:
    return server.details.GetSizes(details.GetSizesRequest(image_id=image_id))


def test_copy_in_a_folder_names_the_same_content(server: Serving, web: Web) -> None:
    source = server.ready(web.url("/disk.raw"), folder_id="same")
    server.until(server.without_work_files)  # counting follows an import
    files = server.files()
    operation = copy_of(server, source.id, "same")
    assert operation.done
    assert server.files() == files
    mine, theirs = sizes(server, image_id_of(operation)), sizes(server, source.id)
    assert mine.root == theirs.root
    server.images.Delete(images.DeleteImageRequest(image_id=source.id))
    assert pins(server) & {source.id, mine.image_id} == {mine.image_id}


def test_copy_into_another_folder_has_its_own_ids_and_the_same_bytes(server: Serving, web: Web, tmp_path: Path) -> None:
    source = server.ready(web.url("/disk.raw"), folder_id="from")
    operation = copy_of(server, source.id, "to")
    server.images.Delete(images.DeleteImageRequest(image_id=source.id))
    image = image_pb2.Image()
    assert server.finished(operation.id).response.Unpack(image)
    again = server.ready(web.url("/disk.raw"), folder_id="to")
    assert sizes(server, image.id).root == sizes(server, again.id).root  # what an import of the same disk gives
    assert (image.folder_id, image.storage_size, image.size) == ("to", again.storage_size, again.size)
    assert not [name for name in all_pins(server) if name.startswith("copy")]


def all_pins(server: Serving) -> list[str]:
    from dataplane import Store

    with Store.open(server.store) as store:
        return [pin.name for pin in store.pins()]


def test_copy_of_damaged_content_is_refused(server: Serving, web: Web, tmp_path: Path) -> None:
    with serve(tmp_path / "data", workers=1) as own:
        source = own.ready(web.url("/disk.raw"), folder_id="from")
        pack = next(path for path in (own.store / "packs").rglob("*") if path.is_file() and path.stat().st_size > MIB)
        os.chmod(pack, 0o600)
        with pack.open("r+b") as file:
            file.seek(2 * MIB)
            byte = file.read(1)
            file.seek(2 * MIB)
            file.write(bytes([byte[0] ^ 1]))
        ended = own.finished(copy_of(own, source.id, "to").id)
        assert ended.error.code == code_pb2.DATA_LOSS
        assert gone(own, image_id_of(ended))
        assert all_pins(own) == [source.id]


def replace(server: Serving, operation_id: str, uri: str) -> operation_pb2.Operation:
    return server.details.ReplaceSource(details.ReplaceSourceRequest(operation_id=operation_id, uri=uri))


def slow_import(server: Serving, web: Web, path: str, content: bytes = RAW) -> operation_pb2.Operation:
    operation = server.create(web.add(path, content, rate=2 * MIB), folder_id="urls")
    server.until(lambda: server.reads(operation.id))
    return operation


def stage(server: Serving, operation_id: str) -> int:
    return server.details.GetProgress(details.GetProgressRequest(operation_id=operation_id)).stage


def test_running_import_goes_on_with_a_fresh_url_of_the_same_object(server: Serving, web: Web) -> None:
    operation = slow_import(server, web, "/first.raw")
    taken = replace(server, operation.id, web.add("/second.raw", RAW) + "?signature=new")
    assert taken.id == operation.id
    image = image_pb2.Image()
    assert server.finished(operation.id).response.Unpack(image)
    assert any(request.startswith("/second.raw?signature=new") for request in web.requests)


@pytest.mark.parametrize("wrong", ["other", "missing"])
def test_fresh_url_of_another_object_is_not_taken(server: Serving, web: Web, wrong: str) -> None:
    operation = slow_import(server, web, f"/kept-{wrong}.raw")
    if wrong == "other":
        web.add("/other.raw", RAW[:-512] + bytes(512))
    with pytest.raises(grpc.RpcError) as caught:
        replace(server, operation.id, web.url(f"/{wrong}.raw?hush"))
    code, message, named = refusal(caught.value)
    assert (code, named) == (grpc.StatusCode.FAILED_PRECONDITION, [f"operation:{operation.id}"])
    assert "hush" not in message
    web.rates.pop(f"/kept-{wrong}.raw")
    image = image_pb2.Image()
    assert server.finished(operation.id, 40).response.Unpack(image)


def test_import_whose_url_expires_waits_for_a_fresh_one(server: Serving, web: Web) -> None:
    operation = slow_import(server, web, "/expiring.raw", LONG)
    web.statuses["/expiring.raw"] = 403
    del web.files["/expiring.raw"]
    server.until(lambda: True if stage(server, operation.id) == details.Progress.SOURCE_EXPIRED else None, 30)
    assert not server.operation(operation.id).done
    replace(server, operation.id, web.add("/fresh.raw", LONG))
    image = image_pb2.Image()
    assert server.finished(operation.id).response.Unpack(image)


def test_import_that_waits_for_a_fresh_url_can_be_cancelled(server: Serving, web: Web) -> None:
    operation = slow_import(server, web, "/expired.raw", LONG)
    web.statuses["/expired.raw"] = 403
    del web.files["/expired.raw"]
    server.until(lambda: True if stage(server, operation.id) == details.Progress.SOURCE_EXPIRED else None, 30)
    assert server.cancel(operation.id).done
    assert gone(server, image_id_of(operation))


def test_source_of_a_finished_operation_cannot_be_replaced(server: Serving, web: Web) -> None:
    operation = server.finished(server.create(web.url("/disk.raw"), folder_id="urls").id)
    with pytest.raises(grpc.RpcError) as caught:
        replace(server, operation.id, web.url("/disk.raw"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
