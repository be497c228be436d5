"""What a confined process can no longer do, seen from inside, and that imports go on all the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.sandbox import files, system_calls
from service.supervisor import environment_of_worker
from service.worker import NICENESS
from tests.service.serving import DATAPLANE, Serving, serve
from tests.service.web import Web, serving

MIB = 1 << 20
CONFINED = """
import ctypes, errno, json, os, resource, signal, socket, subprocess, sys, threading
from pathlib import Path
from service.sandbox.addresses import refuse_link_local
from service.sandbox.confining import confine

change, secret = map(Path, sys.argv[1:3])
refuse_link_local([])
held = confine(memory=512 << 20, read=(), change=(change,), unix_sockets=False, required=True)

def attempt(what):
    try:
        what()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error)) if error.errno else type(error).__name__
    except MemoryError:
        return "MemoryError"
    return "done"

def connect(host):
    with socket.socket() as one:
        one.settimeout(2)
        one.connect((host, 80))

def listen():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))

def thread():
    one = threading.Thread(target=lambda: None)
    one.start()
    one.join()

def late_import():
    import sqlite3, urllib3, wave

seen = {
    "exec": attempt(lambda: os.execv("/bin/true", ["true"])),
    "subprocess": attempt(lambda: subprocess.run(["/bin/true"])),
    "fork": attempt(os.fork),
    "metadata": attempt(lambda: connect("169.254.169.254")),
    "mapped": attempt(lambda: socket.create_connection(("::ffff:169.254.169.254", 80), 2)),
    "unix socket": attempt(lambda: socket.socket(socket.AF_UNIX)),
    "raw socket": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW)),
    "listen": attempt(listen),
    "kill": attempt(lambda: os.kill(os.getppid(), 0)),
    "read a secret": attempt(secret.read_bytes),
    "write elsewhere": attempt(lambda: secret.with_name("new").write_text("x")),
    "read settings": attempt(lambda: Path("/etc/shadow").read_bytes()),
    "read the system": attempt(lambda: Path("/etc/hostname").read_bytes()),
    "write": attempt(lambda: (change / "file").write_text("x")),
    "rename": attempt(lambda: (change / "file").rename(change / "renamed")),
    "thread": attempt(thread),
    "late import": attempt(late_import),
    "memory": attempt(lambda: bytearray(600 << 20)),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
    "layers": held.layers,
}
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if files.version() == 0 or not system_calls.available():
        pytest.skip("this kernel has no Landlock, or libseccomp2 is not installed")
    folder = tmp_path_factory.mktemp("sandbox")
    (folder / "change").mkdir()
    (folder / "secret").write_text("secret")
    words = [sys.executable, "-c", CONFINED, str(folder / "change"), str(folder / "secret")]
    run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    seen: dict[str, Any] = json.loads(run.stdout)
    return seen


@pytest.mark.parametrize(
    "what",
    [
        *("exec", "subprocess", "fork", "metadata", "mapped", "unix socket", "raw socket", "listen", "kill"),
        *("read a secret", "read settings", "write elsewhere"),
    ],
)
def test_confined_process_cannot(inside: dict[str, Any], what: str) -> None:
    assert inside[what] in ("EPERM", "EACCES", "ENOSYS", "PermissionError"), inside


@pytest.mark.parametrize("what", ["read the system", "write", "rename", "thread", "late import"])
def test_confined_process_can(inside: dict[str, Any], what: str) -> None:
    assert inside[what] == "done", inside


def test_confined_process_has_its_limits(inside: dict[str, Any]) -> None:
    assert inside["memory"] == "MemoryError"
    assert inside["core"] == [0, 0]
    assert inside["dumpable"] == 0
    assert len(inside["layers"]) == 4


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    flags = ["--dev", "--worker-sandbox", "require"] if system_calls.available() and files.version() else ["--dev"]
    with serve(tmp_path_factory.mktemp("confined") / "data", workers=1, flags=flags) as made:
        yield made


def test_confined_worker_imports(server: Serving, web: Web) -> None:
    content = os.urandom(5 * MIB) + bytes(3 * MIB)
    image = server.ready(web.add("/confined.raw", content), name="confined")
    assert image.size == 8 * MIB
    confined = server.until(lambda: next((e for e in server.events() if e["event"] == "worker confined"), None))
    assert "seccomp" in confined["layers"]
    status = Path(f"/proc/{confined['pid']}/status").read_text()
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    of_server, of_worker = (os.getpriority(os.PRIO_PROCESS, pid) for pid in (server.process.pid, confined["pid"]))
    assert of_worker == min(of_server + NICENESS, 19)


def test_source_at_a_link_local_address_is_refused(server: Serving) -> None:
    ended = server.finished(server.create("http://169.254.169.254/latest/meta-data", folder_id="metadata").id)
    assert "169.254.169.254" in ended.error.message
    assert ended.error.code == 3


class Workers:
    """`dataplane worker` as a process of its own."""

    def __init__(self, data: Path, *flags: str) -> None:
        self.log = data.with_name("worker.log")
        command = [*DATAPLANE, "worker", "--data", str(data), "--workers", "1", *flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def pids(self) -> list[int]:
        return [event["pid"] for event in self.events("worker started")]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def test_worker_of_another_process_takes_over_from_a_killed_server(tmp_path: Path, web: Web) -> None:
    uri = web.add("/taken.raw", os.urandom(32 * MIB))
    web.hanging["/taken.raw"] = range(20 * MIB, 21 * MIB)
    with serve(tmp_path / "data", workers=1) as server:
        operation = server.create(uri, name="taken")
        first = server.worker_of(operation.id)
        server.until(lambda: server.reads(operation.id))
        more = Workers(tmp_path / "data", "--dev")
        try:
            assert more.first_line == f"working on {tmp_path / 'data'}\n"
            server.until(lambda: more.pids() or None)
            for pid in (server.process.pid, first):  # nobody is left who could end the lease early
                os.kill(pid, signal.SIGKILL)
            web.hanging.clear()
            claims = server.until(lambda: more.events("operation claimed") or None, timeout_s=30)
            assert [claim["epoch"] for claim in claims] == [2]
            server.until(lambda: more.events("operation done") or None, timeout_s=60)
        finally:
            assert more.stop() == 0
    with serve(tmp_path / "data", workers=1) as server:
        assert server.operation(operation.id).HasField("response")


def test_worker_without_a_store_says_so(tmp_path: Path) -> None:
    run = subprocess.run(
        [*DATAPLANE, "worker", "--data", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (run.returncode, run.stdout) == (5, "")
    assert "Traceback" not in run.stderr


def test_worker_gets_no_credentials_of_its_server() -> None:
    given = {"PATH": "/bin", "PYTHONPATH": "x", "DATAPLANE_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "k", "LC_ALL": "C"}
    kept = environment_of_worker(given)
    assert kept.items() >= {"PATH": "/bin", "PYTHONPATH": "x", "LC_ALL": "C"}.items()
    assert not kept.keys() & {"DATAPLANE_TOKEN", "AWS_SECRET_ACCESS_KEY"}
