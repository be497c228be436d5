"""The unmodified public SDK against a real server, over TLS and, as far as it can, without."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import grpc

from tests.service.serving import serve
from tests.service.web import serving

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]


def run_sdk(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.service.sdk_conformance", *arguments]
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
