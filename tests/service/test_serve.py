"""The service from outside: a server process, its workers, a web server with sources, the public SDK."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service._pb.dataplane.v1 import image_details_pb2 as details
from service._pb.yandex.cloud.compute.v1 import image_pb2
from service._pb.yandex.cloud.compute.v1 import image_service_pb2 as images
from service._pb.yandex.cloud.operation import operation_pb2
from service.client.progress_line import describe
from tests.service.serving import DATAPLANE, Serving, serve
from tests.service.web import Web, serving

MIB = 1 << 20
VIRTUAL_SIZE = 45 * MIB
SLOW = 3 * MIB
"""Bytes a second of a source that an import is still busy with when a test interferes."""


@dataclass
class Disk:
    """One disk in two containers."""

    raw: bytes
    qcow2: bytes


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory, qemu_img: str) -> Disk:
    folder = tmp_path_factory.mktemp("disk")
    raw = bytearray(VIRTUAL_SIZE)
    noise = random.Random(7)
    for offset in (0, 5 * MIB, 6 * MIB, 7 * MIB, 20 * MIB, 21 * MIB, 22 * MIB, 40 * MIB, 44 * MIB):
        raw[offset : offset + MIB] = noise.randbytes(MIB)
    raw[30 * MIB : 31 * MIB] = raw[:MIB]  # a duplicate
    (folder / "disk.raw").write_bytes(raw)
    command = [qemu_img, "convert", "-f", "raw", "-O", "qcow2", str(folder / "disk.raw"), str(folder / "disk.qcow2")]
    subprocess.run(command, check=True)
    return Disk(raw=bytes(raw), qcow2=(folder / "disk.qcow2").read_bytes())


@pytest.fixture(scope="module")
def web(disk: Disk) -> Iterator[Web]:
    with serving() as made:
        made.add("/disk.qcow2", disk.qcow2)
        made.add("/disk.raw", disk.raw)
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serve(tmp_path_factory.mktemp("serve") / "data") as made:
        yield made


def image_id_of(operation: operation_pb2.Operation) -> str:
    metadata = images.CreateImageMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata.image_id


def gone(server: Serving, image_id: str) -> bool:
    with pytest.raises(grpc.RpcError) as caught:
        server.images.Get(images.GetImageRequest(image_id=image_id))
    return caught.value.code() is grpc.StatusCode.NOT_FOUND


def packs(server: Serving) -> set[str]:
    return {name for name in server.files() if name.startswith("packs/")}


def only_has(server: Serving, expected: set[str]) -> bool | None:
    """Say True when the store has these packs and no import has files of its own. Runs may be merged at any time."""
    return True if packs(server) == expected and server.without_work_files() else None


def test_public_sdk_creates_an_image_and_its_waiter_returns_it(server: Serving, web: Web) -> None:
    script = str(Path(__file__).with_name("sdk_client.py"))
    for name in ("kept", "gone"):
        command = [
            sys.executable,
            "-W",
            "ignore",
            script,
            server.endpoint,
            str(server.ca),
            web.url("/disk.qcow2"),
            name,
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert run.returncode == 0, run.stderr
        seen = json.loads(run.stdout)
        assert seen["status"] == image_pb2.Image.READY
        assert seen["size"] == 48 * MIB
        assert seen["storage_size"] == 9 * MIB  # distinct, and noise does not compress
    listed = server.images.List(images.ListImagesRequest(folder_id="sdk"))
    assert [image.name for image in listed.images] == ["kept"]


def test_raw_form_of_a_disk_has_the_same_sizes_and_adds_no_packs(server: Serving, web: Web) -> None:
    first = server.ready(web.url("/disk.qcow2"), folder_id="same")
    before = packs(server)
    second = server.ready(web.url("/disk.raw"), folder_id="same")
    assert packs(server) == before
    assert (second.storage_size, second.size) == (first.storage_size, first.size)
    sizes = [server.details.GetSizes(details.GetSizesRequest(image_id=image.id)) for image in (first, second)]
    assert sizes[0].root == sizes[1].root != b""
    assert (sizes[0].virtual_size, sizes[0].data_size) == (VIRTUAL_SIZE, 10 * MIB)
    assert (sizes[0].chunks, sizes[0].distinct_chunks) == (160, 144)


def test_folders_share_no_content_ids(server: Serving, web: Web) -> None:
    one, two = (server.ready(web.url("/disk.qcow2"), folder_id=folder) for folder in ("own1", "own2"))
    roots = {server.details.GetSizes(details.GetSizesRequest(image_id=image.id)).root for image in (one, two)}
    assert len(roots) == 2
    assert one.storage_size == two.storage_size


def test_two_imports_of_one_source_at_once_both_succeed(server: Serving, web: Web) -> None:
    started = [server.create(web.url("/disk.qcow2"), folder_id="twins") for _ in range(4)]
    ended = [server.finished(operation.id) for operation in started]
    assert [operation.error.message for operation in ended] == [""] * 4


def test_progress_is_live_and_ends_with_the_operation(server: Serving, web: Web, disk: Disk) -> None:
    uri = web.add("/live.raw", disk.raw, rate=3 * MIB)
    operation = server.create(uri, folder_id="live")
    seen = list(server.details.WatchProgress(details.WatchProgressRequest(operation_id=operation.id), timeout=120))
    assert seen[-1].done
    assert seen[-1].stage == details.Progress.DONE
    assert seen[-1].position_bytes == seen[-1].total_bytes == VIRTUAL_SIZE
    assert seen[-1].zero_bytes + seen[-1].new_bytes + seen[-1].duplicate_bytes == pytest.approx(
        VIRTUAL_SIZE, abs=1 << 16
    )
    assert any(progress.stage == details.Progress.READING and progress.bytes_per_second > 0 for progress in seen)
    assert [progress.position_bytes for progress in seen] == sorted(progress.position_bytes for progress in seen)


def test_cancel_stops_a_running_import_and_leaves_nothing(server: Serving, web: Web, disk: Disk) -> None:
    uri = web.add("/slow.raw", disk.raw, rate=SLOW)
    before = packs(server)
    operation = server.create(uri, name="slow", folder_id="cancel")
    server.until(lambda: server.reads(operation.id))
    began_s = time.monotonic()
    server.cancel(operation.id)
    ended = server.finished(operation.id, 5)
    assert time.monotonic() - began_s < 2
    assert (ended.error.code, image_id_of(ended)) == (code_pb2.CANCELLED, image_id_of(operation))
    assert gone(server, image_id_of(operation))
    server.until(lambda: only_has(server, before), 10)
    assert server.cancel(operation.id) == ended
    server.cancel(server.create(uri, name="slow", folder_id="cancel").id)


@pytest.mark.parametrize("stage", ["opening", "reading"])
def test_cancel_ends_an_import_whose_source_hangs(server: Serving, web: Web, disk: Disk, stage: str) -> None:
    path = f"/hanging-{stage}.raw"
    web.add(path, disk.raw)
    held = {
        "opening": range(VIRTUAL_SIZE - 512, VIRTUAL_SIZE),
        "reading": range(20 * MIB, 21 * MIB),
    }  # opening looks at the end
    web.hanging[path] = held[stage]
    operation = server.create(web.url(path), folder_id="hang")
    server.worker_of(operation.id)
    time.sleep(0.5)
    began_s = time.monotonic()
    server.cancel(operation.id)
    ended = server.finished(operation.id, 5)
    assert time.monotonic() - began_s < 2
    assert ended.error.code == code_pb2.CANCELLED
    server.until(server.without_work_files, 3)


def test_killed_worker_is_replaced_and_its_import_finishes(server: Serving, web: Web, disk: Disk) -> None:
    uri = web.add("/killed.raw", disk.raw, rate=SLOW)
    operation = server.create(uri, folder_id="kill")
    server.until(lambda: server.reads(operation.id))
    os.kill(server.worker_of(operation.id), signal.SIGKILL)
    began_s = time.monotonic()
    server.worker_of(operation.id, epoch=2)
    assert time.monotonic() - began_s < 10
    web.rates.pop("/killed.raw")
    image = image_pb2.Image()
    assert server.finished(operation.id).response.Unpack(image)
    assert image.status == image_pb2.Image.READY
    server.until(server.without_work_files, 3)


def test_import_that_kills_every_worker_is_given_up(server: Serving, web: Web, disk: Disk) -> None:
    web.add("/poison.raw", disk.raw)
    web.hanging["/poison.raw"] = range(20 * MIB, 21 * MIB)
    operation = server.create(web.url("/poison.raw"), folder_id="poison")
    for epoch in (1, 2, 3):
        os.kill(server.worker_of(operation.id, epoch), signal.SIGKILL)
    ended = server.finished(operation.id)
    assert ended.error.code == code_pb2.INTERNAL
    assert "3 times" in ended.error.message
    assert gone(server, image_id_of(operation))


@pytest.mark.parametrize("case", ["missing", "forbidden", "truncated", "html", "empty", "refused", "unreachable"])
def test_bad_source_ends_in_one_line_without_its_query(server: Serving, web: Web, disk: Disk, case: str) -> None:
    web.statuses["/forbidden"] = 403
    uri = {
        "missing": web.url("/nothing.qcow2"),
        "forbidden": web.url("/forbidden"),
        "truncated": web.add("/cut.qcow2", disk.qcow2[: 5 * MIB]),
        "html": web.add("/page", b"<!DOCTYPE html>\n<html><body>not a disk</body></html>\n" * 40),
        "empty": web.add("/empty", b""),
        "refused": "https://10.0.0.1/disk.raw",
        "unreachable": "http://no-such-host.invalid/disk.raw",
    }[case]
    before = packs(server)
    ended = server.finished(server.create(f"{uri}?X-Signature=hushhush", name="bad", folder_id="bad").id)
    request = error_details_pb2.BadRequest()
    assert ended.error.code == code_pb2.INVALID_ARGUMENT
    assert ended.error.message.isprintable()
    assert ended.error.message
    assert ended.error.details[0].Unpack(request)
    assert [violation.field for violation in request.field_violations] == ["uri"]
    assert gone(server, image_id_of(ended))
    server.until(lambda: only_has(server, before), 10)
    assert "hushhush" not in str(ended)


def test_secret_of_a_url_is_in_no_log_and_no_file(server: Serving, web: Web) -> None:
    server.ready(web.url("/disk.qcow2") + "?X-Signature=confidential", folder_id="secret")
    assert any("confidential" in request for request in web.requests)
    assert b"confidential" not in server.log.read_bytes()
    for path in server.data.rglob("*"):
        if path.is_file():
            assert b"confidential" not in path.read_bytes(), path


def test_min_disk_size_too_small_states_the_minimum(server: Serving, web: Web) -> None:
    ended = server.finished(server.create(web.url("/disk.raw"), folder_id="min", min_disk_size=44 * MIB).id)
    assert ended.error.code == code_pb2.INVALID_ARGUMENT
    assert str(48 * MIB) in ended.error.message
    assert gone(server, image_id_of(ended))


def test_min_disk_size_that_fits_is_kept(server: Serving, web: Web) -> None:
    assert server.ready(web.url("/disk.raw"), folder_id="min").min_disk_size == 48 * MIB
    assert server.ready(web.url("/disk.raw"), folder_id="min", min_disk_size=50 * MIB).min_disk_size == 50 * MIB


def test_delete_lets_go_of_the_content(server: Serving, web: Web) -> None:
    image = server.ready(web.url("/disk.qcow2"), folder_id="delete")
    assert image.id in pins(server)
    assert server.images.Delete(images.DeleteImageRequest(image_id=image.id)).done
    assert image.id not in pins(server)


def pins(server: Serving) -> set[str]:
    run = subprocess.run([*DATAPLANE, "ls", str(server.store), "--json"], capture_output=True, text=True, check=True)
    return {word for word in run.stdout.replace('"', " ").split() if word.startswith("fd8")}


def test_health_is_serving_and_reflection_lists_services(server: Serving) -> None:
    health = health_pb2_grpc.HealthStub(server.channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(iter(reflection.ServerReflectionInfo(iter([question]))))
    names = {service.name for service in answer.list_services_response.service}
    assert {"yandex.cloud.compute.v1.ImageService", "dataplane.v1.ImageDetailsService"} <= names


def client(server: Serving, *arguments: str) -> subprocess.CompletedProcess[str]:
    where = ["--endpoint", server.endpoint, "--ca", str(server.ca), "--token", "cli"]
    command = [*DATAPLANE, "image", arguments[0], *where, *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_client_creates_lists_and_deletes(server: Serving, web: Web) -> None:
    options = ["--folder", "cli", "--name", "disk", "--label", "k=v", "--min-disk-size", "1G", "--wait", "--json"]
    created = client(server, "create", "--uri", web.url("/disk.qcow2"), *options)
    assert created.returncode == 0, created.stderr
    image = json.loads(created.stdout)
    assert (image["name"], image["status"], image["labels"]) == ("disk", "READY", {"k": "v"})
    assert (image["virtual_size"], image["min_disk_size"]) == (VIRTUAL_SIZE, 1 << 30)
    assert "done" in created.stderr
    listed = client(server, "list", "--folder", "cli")
    assert image["id"] in listed.stdout
    got = client(server, "get", image["id"], "--json")
    assert json.loads(got.stdout)["storage_size"] == image["storage_size"]
    assert client(server, "delete", image["id"]).returncode == 0
    again = client(server, "delete", image["id"])
    assert (again.returncode, again.stdout, again.stderr.count("\n")) == (1, "", 1)
    assert "is not there" in again.stderr


def test_client_updates_copies_and_looks_back(server: Serving, web: Web) -> None:
    source = ["--folder", "cli2", "--name", "first", "--family", "fam", "--uri", web.url("/disk.qcow2")]
    first = json.loads(client(server, "create", *source, "--os", "windows", "--wait", "--json", "--key", "k1").stdout)
    again = json.loads(client(server, "create", *source, "--os", "windows", "--wait", "--json", "--key", "k1").stdout)
    assert again["id"] == first["id"]
    how = ["--folder", "cli2", "--image", first["id"], "--family", "fam", "--pooled"]
    copy = json.loads(client(server, "create", *how, "--json").stdout)
    assert (first["pooled"], copy["pooled"]) == (False, True)
    assert (copy["os"], copy["storage_size"], copy["status"]) == ("WINDOWS", first["storage_size"], "READY")
    latest = client(server, "latest", "--folder", "cli2", "--family", "fam", "--json")
    assert json.loads(latest.stdout)["id"] == copy["id"]
    changes = ["--name", "second", "--label", "a=b", "--min-disk-size", "1G", "--json"]
    updated = json.loads(client(server, "update", copy["id"], *changes).stdout)
    assert (updated["name"], updated["labels"], updated["min_disk_size"]) == ("second", {"a": "b"}, 1 << 30)
    assert json.loads(client(server, "update", copy["id"], "--no-labels", "--json").stdout)["labels"] == {}
    listed = client(server, "list", "--folder", "cli2", "--filter", "family='fam'", "--order-by", "name desc", "--json")
    assert [image["name"] for image in json.loads(listed.stdout)] == ["second", "first"]
    named = client(server, "list", "--folder", "cli2", "--name", 'a"b\\', "--json")
    assert (named.returncode, json.loads(named.stdout)) == (0, [])
    history = client(server, "operations", copy["id"])
    assert [line.split()[1] for line in history.stdout.splitlines()[1:]] == ["Update", "Update", "Create"]


def test_client_shows_its_place_in_the_queue_and_an_expired_url() -> None:
    waiting = details.Progress(stage=details.Progress.QUEUED, queue_position=3)
    expired = details.Progress(stage=details.Progress.SOURCE_EXPIRED)
    assert describe(waiting) == "queued, place 3 in the queue"
    assert "dataplane image refresh" in describe(expired)


def test_client_waits_and_cancels(server: Serving, web: Web, disk: Disk) -> None:
    uri = web.add("/client-slow.raw", disk.raw, rate=SLOW)
    created = client(server, "create", "--uri", uri, "--folder", "cli", "--json")
    operation_id = json.loads(created.stdout)["id"]
    assert client(server, "cancel", operation_id).returncode == 0
    waited = client(server, "wait", operation_id)
    assert (waited.returncode, waited.stdout) == (1, "")
    assert "cancelled" in waited.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["create", "--folder", "cli", "--wait", "--uri", "{web}/nothing?hush"], 4, "/nothing"),
        (["create", "--folder", "cli", "--uri", "/etc/passwd"], 2, "uri"),
        (["create", "--folder", "cli", "--uri", "{web}/a", "--label", "x"], 2, "KEY=VALUE"),
        (["create", "--folder", "cli", "--uri", "{web}/a", "--min-disk-size", "1Q"], 2, "1Q"),
        (["get", "fd8nothing"], 1, "fd8nothing"),
        (["update", "fd8nothing"], 2, "nothing to change"),
        (["update", "fd8nothing", "--label", "a=b", "--no-labels"], 2, "exclude each other"),
        (["latest", "--folder", "cli", "--family", "none"], 1, "family"),
        (["refresh", "fdpnothing", "--uri", "https://h/a"], 1, "fdpnothing"),
    ],
)
def test_client_failure_is_one_line_and_its_code(
    server: Serving, web: Web, arguments: list[str], code: int, text: str
) -> None:
    run = client(server, *(argument.replace("{web}", web.url("")) for argument in arguments))
    last = run.stderr.splitlines()[-1]
    assert (run.returncode, run.stdout) == (code, ""), run.stderr
    assert text in last
    assert "Traceback" not in run.stderr
    assert "hush" not in run.stderr
