"""The unmodified public SDK against a real server, over TLS and, as far as it can, without."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from tests.disks import MIB, disk_bytes
from tests.postgres import PostgresServer
from tests.service.serving import serve
from tests.service.web import serving

ROOT = Path(__file__).resolve().parents[2]


def run_sdk(*arguments: str, program: str = "sdk_conformance") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", f"tests.service.{program}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=800, cwd=ROOT)


def test_public_sdk_finds_every_call_as_it_is_described(tmp_path: Path) -> None:
    disk = random.Random(5).randbytes(5 * MIB + 512)
    with serving() as web, serve(tmp_path / "data") as server:
        run = run_sdk(server.endpoint, str(server.ca), web.add("/disk.raw", disk), str(len(disk)))
        assert run.returncode == 0, run.stdout + run.stderr + server.log.read_text()[-2000:]
        assert run.stdout.split()[-1] == "check_completeness"


def test_public_sdk_finds_every_call_in_plaintext_too(tmp_path: Path) -> None:
    disk = random.Random(6).randbytes(5 * MIB)
    unused = grpc.ssl_channel_credentials()
    with serving() as web, serve(tmp_path / "data", flags=("--dev", "--insecure"), credentials=unused) as server:
        run = run_sdk(server.endpoint, "-", web.add("/disk.raw", disk), str(len(disk)))
        assert run.returncode == 0, run.stdout + run.stderr + server.log.read_text()[-2000:]
        assert run.stdout.split()[-1] == "check_completeness"


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_public_sdk_finds_disks_and_snapshots_as_they_are_described(
    tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    flags = ["--dev", "--nbd-listen", "127.0.0.1:0"]
    if database == "postgresql":
        server_of_databases: PostgresServer = request.getfixturevalue("postgres_server")
        flags += ["--database", server_of_databases.new_database()]
    with serving() as web, serve(tmp_path / "data", flags=flags) as server:
        certificates = tmp_path / "certificates"
        certificates.mkdir()
        (certificates / "ca-cert.pem").write_bytes(server.ca.read_bytes())
        source = web.add("/disk.raw", disk_bytes(20 * MIB, seed=9))
        run = run_sdk(server.endpoint, str(server.ca), source, str(certificates), program="sdk_disks")
        assert run.returncode == 0, run.stdout + run.stderr + server.log.read_text()[-3000:]
        assert run.stdout.split()[-1] == "all"
