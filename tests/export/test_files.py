"""Exports to files: what is in them, how long they are, and what is left when they fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dataplane.errors import AlreadyExists, Cancelled, Corrupt, NoSpace, UsageError
from dataplane.ingest import export_targets
from dataplane.ingest.exporting import export_image
from dataplane.store.store import Store
from tests.disks import KIB, MIB
from tests.export.conftest import DISK_SIZE, MakeStore, add, hurt_last_chunk


@pytest.mark.parametrize("chunk_size", [4 * KIB, 64 * KIB, 4 * MIB])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("sync", [True, False])
def test_raw_is_the_disk_to_the_byte(
    make_store: MakeStore, disk: Path, tmp_path: Path, chunk_size: int, sparse: bool, sync: bool
) -> None:
    target = tmp_path / "out"
    result = export_image(make_store(chunk_size), "disk", target, sparse=sparse, sync=sync, verify=True, threads=3)
    assert target.read_bytes() == disk.read_bytes()
    assert target.stat().st_size == result.virtual_size == DISK_SIZE
    assert result.verified
    assert (target.stat().st_blocks * 512 >= DISK_SIZE) == (not sparse)


@pytest.fixture(params=["anonymous", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the file comes to its name: as it does where files without a name exist, and as it does elsewhere."""
    if request.param == "named":
        monkeypatch.setattr(export_targets, "DESCRIPTORS", "/nowhere")
    return str(request.param)


def test_target_is_replaced_only_with_force(store: Store, disk: Path, tmp_path: Path, way: str) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"mine")
    with pytest.raises(AlreadyExists, match="--force"):
        export_image(store, "disk", target)
    assert target.read_bytes() == b"mine"
    before = set(tmp_path.iterdir())
    export_image(store, "disk", target, force=True)
    assert target.read_bytes() == disk.read_bytes()
    assert set(tmp_path.iterdir()) == before


def test_file_that_appears_meanwhile_is_not_replaced(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    real = os.fsync

    def fsync(fd: int) -> None:
        target.write_bytes(b"theirs")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(AlreadyExists, match="meanwhile"):
        export_image(store, "disk", target)
    assert target.read_bytes() == b"theirs"


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_hurt_chunk_leaves_nothing(store: Store, tmp_path: Path, way: str, format: str) -> None:
    hurt_last_chunk(store)
    before = set(tmp_path.iterdir())
    with pytest.raises(Corrupt, match=r"the chunk at|does not decode"):
        export_image(store, "disk", tmp_path / "out", format=format, threads=2)
    assert set(tmp_path.iterdir()) == before


def test_cancelled_leaves_nothing(store: Store, tmp_path: Path, way: str) -> None:
    cancelled = threading.Event()
    cancelled.set()
    before = set(tmp_path.iterdir())
    with pytest.raises(Cancelled):
        export_image(store, "disk", tmp_path / "out", cancelled=cancelled)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_full_disk_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    """EFBIG at the first write past 1 MiB, in a process of its own."""
    command = [sys.executable, "-m", "dataplane", "export", str(store.path), "disk", str(tmp_path / "out")]
    command += ["--format", format, "--progress", "none"]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 2048; exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no space left" in done.stderr
    assert not (tmp_path / "out").exists()


def test_failing_fsync_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    before = set(tmp_path.iterdir())
    with pytest.raises(NoSpace):
        export_image(store, "disk", tmp_path / "out")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("forced", [False, True])
def test_killed_export_leaves_nothing_that_looks_like_a_result(store: Store, tmp_path: Path, forced: bool) -> None:
    """SIGKILL while it waits for the disk: the data is all written, and the name still not there, or the old one's."""
    target = tmp_path / "results" / "out"
    target.parent.mkdir()
    if forced:
        target.write_bytes(b"old")
    program = f"""
import os, time
from dataplane import Store, export_image
def fsync(fd):
    print("syncing", flush=True)
    time.sleep(600)
os.fsync = fsync
export_image(Store.open({str(store.path)!r}), "disk", {str(target)!r}, force={forced})
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"syncing\n"
        child.send_signal(signal.SIGKILL)
    assert [path.name for path in target.parent.iterdir() if not path.name.startswith(".out.")] == ["out"] * forced
    if forced:
        assert target.read_bytes() == b"old"
    export_image(store, "disk", target, force=forced, verify=True)


def test_verify_notices_what_the_disk_changed(
    store: Store, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of difference: other data, zeros where data was, data where zeros were, and the last byte."""
    from dataplane.ingest import exporting

    real = export_targets.drop_cached
    data = disk.read_bytes()
    at_data = next(at for at in range(0, DISK_SIZE, 64 * KIB) if data[at : at + 64 * KIB].strip(b"\0"))
    harms = {
        "bit": (at_data + 7, bytes([data[at_data + 7] ^ 1])),
        "zeros": (at_data, bytes(64 * KIB)),
        "data": (5 * MIB, b"x"),
        "last": (DISK_SIZE - 1, b"x"),
    }
    for offset, harm in harms.values():

        def drop(target: export_targets.OpenTarget, offset: int = offset, harm: bytes = harm) -> None:
            os.pwrite(target.fd, harm, offset)
            real(target)

        monkeypatch.setattr(exporting, "drop_cached", drop)
        with pytest.raises(Corrupt, match=f"does not read back.*{offset // (64 * KIB) * 64 * KIB}$"):
            export_image(store, "disk", tmp_path / "out", verify=True)
        assert not (tmp_path / "out").exists()


def test_verify_notices_a_hole_in_place_of_everything(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataplane.ingest import exporting

    def drop(target: export_targets.OpenTarget) -> None:
        os.ftruncate(target.fd, 0)
        os.ftruncate(target.fd, DISK_SIZE)

    monkeypatch.setattr(exporting, "drop_cached", drop)
    with pytest.raises(Corrupt, match="zeros where the image has data"):
        export_image(store, "disk", tmp_path / "out", verify=True)


def test_options_that_do_not_go_together(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="not known"):
        export_image(store, "disk", out, format="vmdk")
    with pytest.raises(UsageError, match="compressed"):
        export_image(store, "disk", out, compressed=True)
    with pytest.raises(UsageError, match="without holes"):
        export_image(store, "disk", out, format="qcow2", sparse=False)
    with pytest.raises(UsageError, match="regular file"):
        export_image(store, "disk", Path("/dev/null"), force=True)
    assert not out.exists()


def test_name_as_long_as_a_folder_allows(store: Store, disk: Path, tmp_path: Path, way: str) -> None:
    target = tmp_path / ("ü" * 127)
    for _ in range(2):
        export_image(store, "disk", target, force=True)
    assert target.read_bytes() == disk.read_bytes()


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_sparse_8_tib_disk_takes_no_time_and_no_room(tmp_path: Path, format: str) -> None:
    size = 8 << 40
    with (tmp_path / "huge.raw").open("wb") as file:
        file.truncate(size)
        file.seek(5 << 40)
        file.write(os.urandom(100 * KIB))
    store = Store.create(tmp_path / "store")
    add(store, tmp_path / "huge.raw", "huge")
    started = time.monotonic()
    export_image(store, "huge", tmp_path / "out", format=format, verify=True)
    assert time.monotonic() - started < 30
    assert (tmp_path / "out").stat().st_blocks * 512 < MIB
    if format == "raw":
        assert (tmp_path / "out").stat().st_size == size
