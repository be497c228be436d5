"""The verbs nbd and snapshot, as processes of their own."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataplane import open_pool
from dataplane.store.store import Store
from tests.disk.helpers import bring, exported
from tests.disks import KIB, MIB, disk_bytes
from tests.nbd.client import FLUSH, Client

SIZE = 3 * MIB
WAIT_S = 120


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dataplane", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


@pytest.fixture
def content() -> bytes:
    return disk_bytes(SIZE, seed=5)


@pytest.fixture
def store(tmp_path: Path, content: bytes) -> Iterator[Store]:
    with Store.create(tmp_path / "store") as store:
        bring(store, "image", content, tmp_path)
        yield store


class Serving:
    """A ``dataplane nbd`` that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.line = process.stdout.readline()

    def client(self) -> Client:
        where = self.line.removeprefix("listening on ").strip()
        if where.startswith("/"):
            return Client(where)
        host, _, port = where.rpartition(":")
        return Client((host, int(port)))

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit code and what standard error has."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, errors


@contextmanager
def serving(*words: object) -> Iterator[Serving]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dataplane", "nbd", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Serving(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_image_alone_is_served_for_reading_only(store: Store, tmp_path: Path, content: bytes) -> None:
    refused = run("nbd", tmp_path / "store", "image")
    assert refused.returncode == 2
    assert "--overlay" in refused.stderr
    assert "--read-only" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    with serving(tmp_path / "store", "image", "--read-only", "--listen", "127.0.0.1:0") as server:
        assert server.line.startswith("listening on 127.0.0.1:")
        with server.client() as client:
            client.begin("image")
            assert client.read(0, SIZE) == content
            assert client.write(0, b"x") == 1
        store.unpin("image")  # it stays readable
        with server.client() as client:
            client.begin("")
            assert client.read(0, SIZE) == content
        assert server.end(signal.SIGINT) == (130, "dataplane: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_flushes_and_leaves(store: Store, tmp_path: Path, number: int) -> None:
    socket = tmp_path / "nbd.sock"
    with serving(tmp_path / "store", "image", "--overlay", tmp_path / "disk", "--socket", socket) as server:
        assert server.line == f"listening on {socket}\n"
        with server.client() as client:
            client.begin("image")
            assert client.write(1000, b"written") == 0
            code, _ = server.end(number)
        assert code == 128 + number
    assert not socket.exists()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == [
        "disk.json",
        "layer-1.data",
        "layer-1.log",
        "lock",
    ]
    with serving(
        tmp_path / "store", "image", "--overlay", tmp_path / "disk", "--read-only", "--socket", socket
    ) as again:
        with again.client() as client:
            client.begin("image")
            assert client.read(1000, 7) == b"written"
            assert client.write(1000, b"x") == 1
        assert again.end()[0] == 143


def test_what_was_acknowledged_survives_a_kill(store: Store, tmp_path: Path, content: bytes) -> None:
    socket = tmp_path / "nbd.sock"
    words = (tmp_path / "store", "image", "--overlay", tmp_path / "disk", "--socket", socket)
    model = bytearray(content)
    rnd = random.Random(1)
    for _ in range(2):
        with serving(*words) as server, server.client() as client:
            client.begin("image")
            assert client.read(0, SIZE) == model
            for number in range(80):
                offset = rnd.randrange(SIZE - 9000)
                data = rnd.randbytes(rnd.randrange(1, 9000))
                assert client.write(offset, data) == 0
                model[offset : offset + len(data)] = data
                if number == 40:
                    assert client.do(FLUSH).error == 0
            assert server.end(signal.SIGKILL)[0] == -signal.SIGKILL
    with serving(*words) as server, server.client() as client:
        client.begin("image")
        assert client.read(0, SIZE) == model


def test_snapshot_while_it_is_served(store: Store, tmp_path: Path, content: bytes) -> None:
    words = (tmp_path / "store", "image", "--overlay", tmp_path / "disk", "--socket", tmp_path / "sock")
    with serving(*words, "--size", "4M") as server, server.client() as client:
        size, _ = client.begin("image")
        assert size == 4 * MIB
        client.write(SIZE, b"first")
        done = run("snapshot", tmp_path / "store", tmp_path / "disk", "--name", "one", "--json", "--progress", "none")
        assert (done.returncode, done.stderr) == (0, "")
        fields = json.loads(done.stdout)
        assert (fields["name"], fields["format"], fields["virtual_size"]) == ("one", "disk", 4 * MIB)
        assert fields["bytes_read"] == 64 * KIB
        client.write(SIZE, b"later")
        assert exported(store, "one", tmp_path) == content + b"first".ljust(MIB, b"\0")
        taken = run("snapshot", tmp_path / "store", tmp_path / "disk", "--name", "one")
        assert taken.returncode == 1
        assert "already" in taken.stderr
        assert client.read(SIZE, 5) == b"later"
    done = run("snapshot", tmp_path / "store", tmp_path / "disk", "--name", "two")  # nobody serves it now
    assert done.returncode == 0
    assert exported(store, "two", tmp_path)[SIZE : SIZE + 5] == b"later"
    words = (tmp_path / "store", "two", "--overlay", tmp_path / "disk-2", "--socket", tmp_path / "sock")
    with serving(*words) as server, server.client() as client:
        client.begin("two")
        assert client.read(SIZE, 5) == b"later"


def test_overlay_of_another_image_is_refused(store: Store, tmp_path: Path) -> None:
    bring(store, "other", disk_bytes(MIB, seed=9), tmp_path)
    with serving(tmp_path / "store", "image", "--overlay", tmp_path / "disk", "--socket", tmp_path / "sock") as server:
        locked = run("nbd", tmp_path / "store", "image", "--overlay", tmp_path / "disk", "--listen", "127.0.0.1:0")
        assert (locked.returncode, len(locked.stderr.splitlines())) == (5, 1)
        server.end()
    refused = run("nbd", tmp_path / "store", "other", "--overlay", tmp_path / "disk", "--listen", "127.0.0.1:0")
    assert refused.returncode == 2
    assert "'image'" in refused.stderr
    store.pin_also("image", "alias")
    with serving(tmp_path / "store", "alias", "--overlay", tmp_path / "disk", "--socket", tmp_path / "sock") as server:
        assert server.line


def test_boot_trace_is_recorded_and_followed(store: Store, tmp_path: Path, content: bytes) -> None:
    base = (tmp_path / "store", "image", "--read-only", "--socket", tmp_path / "sock")
    with serving(*base, "--record-trace", tmp_path / "trace") as server:
        with server.client() as client:
            client.begin("image")
            for at in (2 * MIB, 100, 64 * KIB, 2 * MIB):
                client.read(at, 4096)
        assert server.end()[0] == 143
    lines = (tmp_path / "trace").read_text().splitlines()
    assert lines == ["dataplane boot trace 1", "2097152 65536", "0 131072"]
    with serving(*base, "--prefetch", tmp_path / "trace") as server, server.client() as client:
        client.begin("image")
        assert client.read(0, SIZE) == content
    pooled = ("--pool", tmp_path / "pool")
    with serving(*base, *pooled, "--prefetch", tmp_path / "trace") as server, server.client() as client:
        client.begin("image")
        assert client.read(0, SIZE) == content
    pool = open_pool(tmp_path / "pool", store.ledger.pin("image").root)
    assert pool is not None
    assert pool.count == 1 + len({content[at : at + 64 * KIB] for at in (0, 64 * KIB, 2 * MIB)} - {bytes(64 * KIB)})
    damaged = bytearray((tmp_path / "pool").read_bytes())
    damaged[100] ^= 1
    (tmp_path / "pool").write_bytes(damaged)
    with serving(*base, *pooled) as server:
        with server.client() as client:
            client.begin("image")
            assert client.read(0, SIZE) == content
        assert "the store is read instead" in server.end()[1]
    (tmp_path / "bad").write_text("no trace\n")
    for path, code in (("bad", 4), ("missing", 4)):
        done = run("nbd", *base, "--prefetch", tmp_path / path)
        assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)
    assert run("nbd", *base, "--record-trace", tmp_path / "trace").returncode == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nothing", "--read-only"], 1),
        (["image", "--read-only", "--listen", "nowhere"], 2),
        (["image", "--read-only", "--listen", "127.0.0.1:99999"], 2),
        (["image", "--read-only", "--size", "1G"], 2),
        (["image", "--read-only", "--tls-cert", "x"], 2),
        (["image", "--read-only", "--tls-cert", "x", "--tls-key", "y"], 2),
        (["image", "--read-only", "--socket", "/nowhere/at/all"], 1),
    ],
)
def test_what_cannot_be_served_is_one_line(store: Store, tmp_path: Path, words: list[str], code: int) -> None:
    done = run("nbd", tmp_path / "store", *words)
    assert (done.returncode, len(done.stderr.splitlines()), done.stdout) == (code, 1, "")


def test_snapshot_of_what_is_no_disk_is_one_line(store: Store, tmp_path: Path) -> None:
    done = run("snapshot", tmp_path / "store", tmp_path / "store", "--name", "one", "--progress", "none")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "is not a disk" in done.stderr
