"""Disks over NBD: who gets in, what they may do, and what stays when the server goes."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from service._pb.dataplane.v1 import disk_exports_pb2 as exports
from service._pb.dataplane.v1 import disk_exports_pb2_grpc
from service._pb.yandex.cloud.compute.v1 import disk_service_pb2 as disks
from service.identity.issued import Issuer
from service.nbd.tokens import ExportTokens
from tests.disks import MIB
from tests.service.control import TOKEN, ControlPlane
from tests.service.serving import Serving, serve
from tests.service.test_disk_calls import created
from tests.service.test_image_calls import refused
from tests.service.test_serve_disks import content, disk_of, snapshot_of
from tests.service.test_telemetry import scrape, value

FLAGS = ("--dev", "--nbd-listen", "127.0.0.1:0")
SECRET = b"s" * 32


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serve(tmp_path / "data", flags=FLAGS) as made:
        yield made


def export(server: Serving, disk_id: str, **fields: object) -> exports.DiskExport:
    stub = disk_exports_pb2_grpc.DiskExportServiceStub(server.channel)
    return stub.Create(exports.CreateDiskExportRequest(disk_id=disk_id, **fields))  # type: ignore[arg-type]


def url(server: Serving, found: exports.DiskExport, name: str = "") -> str:
    """Return the URL of an export; `name` is used instead of its own."""
    folder = server.data.with_name("certificates")
    folder.mkdir(exist_ok=True)
    (folder / "ca-cert.pem").write_bytes(server.ca.read_bytes())
    return f"nbds://{found.address}/{name or found.export_name}?tls-certificates={folder}"


def run(*command: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=120)


def test_disk_is_written_and_read_over_tls_and_outlives_a_kill(server: Serving, tmp_path: Path) -> None:
    disk = disk_of(server)
    found = export(server, disk.id)
    assert (found.disk_id, found.tls) == (disk.id, True)
    assert 3500 < found.expires_at.seconds - time.time() < 3700
    written = run("nbdcopy", "--flush", "-", url(server, found), data=b"x" * MIB)
    assert written.returncode == 0, written.stderr
    info = run("nbdinfo", "--json", url(server, export(server, disk.id, read_only=True)))
    described = json.loads(info.stdout)["exports"][0]
    assert (described["export-size"], described["is_read_only"]) == (disk.size, True)
    read = run("nbdcopy", url(server, export(server, disk.id, read_only=True)), "-")
    assert read.stdout == b"x" * MIB + bytes(disk.size - MIB)
    server.stop(signal.SIGKILL)
    with serve(tmp_path / "data", flags=FLAGS) as again:
        assert content(again, disk.id)[: MIB + 1] == b"x" * MIB + b"\0"


def test_clients_and_requests_are_counted(tmp_path: Path) -> None:
    with serve(tmp_path / "data", flags=[*FLAGS, "--metrics-listen", "127.0.0.1:0"]) as server:
        disk = disk_of(server)
        assert run("nbdcopy", "--flush", "-", url(server, export(server, disk.id)), data=b"x" * MIB).returncode == 0
        reader = url(server, export(server, disk.id, read_only=True))
        assert run("nbdcopy", reader, "null:").returncode == 0
        assert value(server, "dataplane_nbd_written_bytes_total") == MIB
        assert MIB <= value(server, "dataplane_nbd_read_bytes_total") <= disk.size
        for command in ("READ", "WRITE", "FLUSH", "BLOCK_STATUS"):
            assert value(server, "dataplane_nbd_requests_total", command=command, result="OK") > 0, command
        assert disk.id not in scrape(server)
        server.until(lambda: True if value(server, "dataplane_nbd_connections") == 0 else None, timeout_s=60)


def test_only_the_name_that_was_given_gets_in(server: Serving) -> None:
    disk, other = disk_of(server), disk_of(server)
    found = export(server, disk.id)
    token = found.export_name.partition(":")[2]
    for name in (disk.id, f"{other.id}:{token}", f"{disk.id}:{token}x", "none"):
        refused_ = run("nbdinfo", "--size", url(server, found, name))
        assert refused_.returncode != 0, name
    assert run("nbdinfo", "--size", url(server, found)).stdout.strip() == str(disk.size).encode()
    assert run("nbdinfo", "--list", url(server, found)).stdout.count(b"export=") == 0
    plain = run("nbdinfo", "--size", f"nbd://{found.address}/{found.export_name}")
    assert plain.returncode != 0
    assert token not in server.log.read_text()


def test_reader_may_not_write(server: Serving) -> None:
    disk = disk_of(server)
    attempt = run("nbdcopy", "-", url(server, export(server, disk.id, read_only=True)), data=b"x" * 4096)
    assert attempt.returncode != 0
    wait_until_closed(server)
    assert content(server, disk.id).count(0) == disk.size


@contextmanager
def connected(server: Serving, found: exports.DiskExport) -> Iterator[None]:
    """Hold a connection to a disk."""
    before = opened(server)
    host, port = found.address.split(":")
    folder = server.data.with_name("certificates")
    options = f"driver=nbd,host={host},port={port},export={found.export_name},tls-creds=t"
    command = ["qemu-io", "--object", f"tls-creds-x509,id=t,endpoint=client,dir={folder}", "--image-opts", options]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        server.until(lambda: True if opened(server) > before else None, timeout_s=60)
        yield
    finally:
        client.communicate(b"quit\n", timeout=60)
    wait_until_closed(server)


def wait_until_closed(server: Serving) -> None:
    """Return once the server has no disk open."""
    server.until(lambda: True if opened(server) == opened(server, "closed") else None, timeout_s=60)


def opened(server: Serving, word: str = "opened") -> int:
    return server.log.read_text().count(f"disk {word}")


def test_connected_disk_is_frozen_grown_and_not_deleted(server: Serving) -> None:
    disk = disk_of(server)
    found = export(server, disk.id)
    assert run("nbdcopy", "--flush", "-", url(server, found), data=b"\7" * MIB).returncode == 0
    with connected(server, found):
        with pytest.raises(grpc.RpcError, match="in use"):
            server.disks.Delete(disks.DeleteDiskRequest(disk_id=disk.id))
        taken = snapshot_of(server, disk.id)
        server.disks.Update(disks.UpdateDiskRequest(disk_id=disk.id, size=2 * disk.size))
    assert content(server, disk_of(server, snapshot_id=taken.id).id)[: MIB + 1] == b"\7" * MIB + b"\0"
    assert run("nbdinfo", "--size", url(server, found)).stdout.strip() == str(2 * disk.size).encode()
    wait_until_closed(server)
    assert server.disks.Delete(disks.DeleteDiskRequest(disk_id=disk.id)).done


def test_server_without_a_listener_exports_nothing(control: ControlPlane) -> None:
    disk = created(control)
    stub = disk_exports_pb2_grpc.DiskExportServiceStub(control.channel)
    request = exports.CreateDiskExportRequest(disk_id=disk.id)
    code, message, _ = refused(lambda: stub.Create(request, metadata=TOKEN))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "--nbd-listen" in message


def test_tokens_end_and_are_no_others() -> None:
    tokens = ExportTokens(SECRET)
    name, expires_s = tokens.name("d", subject_id="me", read_only=False, lifetime_s=60)
    access = tokens.read(name)
    assert access is not None
    assert (access.disk_id, access.read_only, access.expires_s) == ("d", False, expires_s)
    ended, _ = tokens.name("d", subject_id="me", read_only=True, lifetime_s=-60)
    foreign, _ = ExportTokens(b"o" * 32).name("d", subject_id="me", read_only=True, lifetime_s=60)
    iam, _ = Issuer(SECRET).issue(subject_id="me", credential="token:1", now_s=time.time())
    for wrong in (ended, foreign, f"d:{iam}", "d:", "", "d", name.replace("d:", "e:", 1), f":{name.partition(':')[2]}"):
        assert tokens.read(wrong) is None
