"""kill -9 at each call that makes something durable: committed images stay whole, and no hand is needed afterwards.

strace delivers the signal when a thread of the command is about to make its k-th call of one kind; k goes up until a
run gets through unharmed, so every call of that kind has had its turn.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import import_image
from dataplane.store.store import Store
from dataplane.upkeep.gc import collect
from dataplane.upkeep.scrub import scrub
from tests.disks import KIB, disk_bytes, write_sparse

SCRIPTS = {
    "import": ["import", "STORE", "DISK", "--name", "new", "--progress", "none", "--threads", "1"],
    "rm": ["rm", "STORE", "b"],
    "undelete": ["undelete", "STORE", "gone"],
    "gc": ["gc", "STORE", "--grace", "0", "--undelete-period", "0"],
}
CALLS = ("pwrite64", "write", "fsync", "fdatasync", "rename", "unlink", "unlinkat", "mkdir", "ftruncate")
SLICE = [("import", "fsync"), ("import", "rename"), ("gc", "rename"), ("gc", "unlink"), ("rm", "fdatasync")]
KILLED = -9


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that has two images, a removed one, and garbage to condemn, delete and rewrite."""
    folder = tmp_path_factory.mktemp("template")
    contents = {
        "a": disk_bytes(256 * KIB, seed=1, block=4 * KIB),
        "b": disk_bytes(128 * KIB, seed=2, block=4 * KIB),
        "gone": disk_bytes(192 * KIB, seed=3, block=4 * KIB),
        "big": disk_bytes(128 * KIB, seed=2, block=4 * KIB) + disk_bytes(512 * KIB, seed=4, block=4 * KIB),
        "new": disk_bytes(320 * KIB, seed=5, block=4 * KIB),
    }
    with Store.create(folder / "store", chunk_size=4 * KIB) as store:
        for name in ("big", "a", "b", "gone"):
            with open_source(write_sparse(folder / name, contents[name]), format="raw") as source:
                import_image(store, source, name=name)
        store.unpin("gone", undeletable=True)
        store.unpin("big")
    write_sparse(folder / "new", contents["new"])
    return folder


def can_trace() -> bool:
    """Tell whether strace is there and may trace here."""
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True, check=False).returncode == 0
    )


def run_killed(folder: Path, script: str, call: str, number: int) -> int:
    """Run a script with SIGKILL at the given call; return its exit code (KILLED, or 0 when it got through)."""
    words = [{"STORE": str(folder / "store"), "DISK": str(folder / "new")}.get(word, word) for word in SCRIPTS[script]]
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", *inject, sys.executable, "-m", "dataplane", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, KILLED, 137), done.stderr
    return 0 if done.returncode == 0 else KILLED


def assert_sound(folder: Path, script: str) -> None:
    """Every committed image is whole, the script can be run again, and a collection leaves nothing astray."""
    with Store.open(folder / "store") as store:
        names = {pin.name for pin in store.pins()}
        assert names >= {"a", "b"} - ({"b"} if script == "rm" else set())
        for name in names:
            export_image(store, name, folder / "out", force=True, threads=1)
            assert (folder / "out").read_bytes() == (folder / name).read_bytes(), name
        if script == "import" and "new" not in names:
            with open_source(folder / "new", format="raw") as source:
                import_image(store, source, name="new")
        collect(store, grace_s=0, undelete_s=0, fence_s=1)
        for name in {pin.name for pin in store.pins()}:
            export_image(store, name, folder / "out", force=True, threads=1)
            assert (folder / "out").read_bytes() == (folder / name).read_bytes(), name
        assert scrub(store, threads=1).damage == []
        packs = {path.stem for path in store.layout.packs.glob("*/*")}
        runs = {path.stem for path in store.layout.runs.iterdir()}
        assert packs == {name.hex() for name in store.ledger.packs()}
        assert runs == {name.hex() for name in store.ledger.runs()}
        assert [path.name for path in store.layout.temporary.iterdir()] == ["lock"]


def kill_everywhere(template: Path, folder: Path, script: str, call: str) -> int:
    """Kill at every call of one kind; return how many points there were."""
    if not can_trace():
        pytest.skip("strace may not trace here")
    number = 0
    while True:
        number += 1
        target = folder / str(number)
        shutil.copytree(template, target)
        outcome = run_killed(target, script, call, number)
        assert_sound(target, script)
        shutil.rmtree(target)
        if outcome == 0:
            return number - 1


@pytest.mark.parametrize(("script", "call"), SLICE)
def test_kill_slice(template: Path, tmp_path: Path, script: str, call: str) -> None:
    assert kill_everywhere(template, tmp_path, script, call) > 0


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_kill_everywhere(template: Path, tmp_path: Path, script: str, call: str) -> None:
    kill_everywhere(template, tmp_path, script, call)
