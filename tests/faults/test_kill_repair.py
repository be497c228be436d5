"""kill -9 during a repair, at each call that makes something durable: begun again, it ends as if nothing had been."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.store.store import Store
from tests.disks import KIB
from tests.upkeep.test_repair import PACK_HARM, assert_whole, bring, disk, flip, hurt_chunk, place_of

CALLS = ("pwrite64", "write", "fsync", "fdatasync", "rename", "link", "unlink", "unlinkat", "mkdir", "ftruncate")
KILLED = (-9, 137)

HARM: dict[str, Callable[[Path], object]] = {
    "chunk": lambda path: hurt_chunk(path, "a", 0),
    "pack": lambda path: PACK_HARM["table"](place_of(path, "a", 0)[0]),
    "runs": lambda path: flip(min(path.glob("runs/*.run")), 70),
    "ledger": lambda path: (path / "ledger.sqlite3").write_bytes(b"junk" * 5000),
}
SLICE = [("chunk", "rename"), ("pack", "link"), ("runs", "fsync"), ("ledger", "rename"), ("ledger", "unlink")]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    with Store.create(folder / "store", chunk_size=4 * KIB) as store:
        bring(store, folder, "a")
        bring(store, folder, "b")
        bring(store, folder, "c", domain="folder")
    return folder


def can_trace() -> bool:
    """Tell whether strace is there and may trace here."""
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True, check=False)
    return tried.returncode == 0


def repair_killed(folder: Path, call: str, number: int) -> bool:
    """Repair from a source, with SIGKILL at the k-th call of a kind (0: none); return whether it got through."""
    source = ["--source", str(disk(folder, "a")), "--format", "raw", "--threads", "1", "--progress", "none"]
    inject = [f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"] if number else ["trace=none"]
    command = [sys.executable, "-m", "dataplane", "repair", str(folder / "store"), *source]
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", *inject, *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in (0, *KILLED), done.stderr
    return done.returncode == 0


def kill_everywhere(template: Path, folder: Path, harm: str, call: str) -> int:
    """Kill a repair at every call of one kind, then let another one run; return how many points there were."""
    if not can_trace():
        pytest.skip("strace may not trace here")
    number = 0
    while True:
        number += 1
        target = folder / str(number)
        shutil.copytree(template, target)
        HARM[harm](target / "store")
        through = repair_killed(target, call, number)
        if not through:
            assert repair_killed(target, call, 0)
        names = ("a", "b", "c") if harm != "ledger" else ()
        assert_whole(target / "store", *names)
        with Store.open(target / "store") as store:
            assert len(store.pins()) == 3
        shutil.rmtree(target)
        if through:
            return number - 1


@pytest.mark.parametrize(("harm", "call"), SLICE)
def test_kill_slice(template: Path, tmp_path: Path, harm: str, call: str) -> None:
    assert kill_everywhere(template, tmp_path, harm, call) > 0


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("harm", HARM)
def test_kill_everywhere(template: Path, tmp_path: Path, harm: str, call: str) -> None:
    kill_everywhere(template, tmp_path, harm, call)
