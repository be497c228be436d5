"""Exports to block devices: loop devices, which need root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.errors import AlreadyExists, Corrupt, UsageError
from dataplane.ingest import export_targets
from dataplane.ingest.exporting import export_image
from dataplane.store.store import Store
from tests.disks import KIB, MIB
from tests.export.conftest import DISK_SIZE, MakeStore, hurt_last_chunk

DEVICE_SIZE = 20 * MIB
OLD = b"\xe5"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 20 MiB full of old bytes."""
    yield from looped(tmp_path / "device", DEVICE_SIZE)


def looped(file: Path, size: int) -> Iterator[Path]:
    file.write_bytes(OLD * size)
    try:
        done = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("losetup is not installed")
    if done.returncode != 0:
        pytest.skip(f"no loop device here: {done.stderr.strip()}")
    path = Path(done.stdout.strip())
    try:
        yield path
    finally:
        subprocess.run(["losetup", "--detach", path], check=True)


def content(device: Path) -> bytes:
    os.sync()
    return device.read_bytes()


@pytest.mark.parametrize("chunk_size", [4 * KIB, 64 * KIB, 4 * MIB])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("punching", [True, False])
def test_device_gets_the_disk_and_keeps_no_old_byte(
    make_store: MakeStore,
    disk: Path,
    device: Path,
    monkeypatch: pytest.MonkeyPatch,
    chunk_size: int,
    sparse: bool,
    punching: bool,
) -> None:
    """Zeros are written or freed as the device can; behind the disk nothing is touched."""
    if not punching:

        def refuse(fd: int, offset: int, length: int) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(export_targets, "punch_hole", refuse)
    export_image(make_store(chunk_size), "disk", device, force=True, sparse=sparse, verify=True, threads=3)
    found = content(device)
    assert found[:DISK_SIZE] == disk.read_bytes()
    assert found[DISK_SIZE:] == OLD * (DEVICE_SIZE - DISK_SIZE)


def test_sparse_frees_what_is_zero(store: Store, device: Path, tmp_path: Path) -> None:
    before = (tmp_path / "device").stat().st_blocks
    export_image(store, "disk", device, force=True)
    assert (tmp_path / "device").stat().st_blocks * 512 <= before * 512 - 7 * MIB


def test_device_needs_force_and_raw(store: Store, device: Path) -> None:
    with pytest.raises(AlreadyExists, match="--force"):
        export_image(store, "disk", device)
    with pytest.raises(UsageError, match="only raw"):
        export_image(store, "disk", device, force=True, format="qcow2")
    assert content(device) == OLD * DEVICE_SIZE


def test_small_device_is_refused_untouched(store: Store, tmp_path: Path) -> None:
    size = DISK_SIZE // (64 * KIB) * 64 * KIB  # less than the disk by part of a chunk
    for device in looped(tmp_path / "small", size):
        with pytest.raises(UsageError, match=f"{size} bytes, the image {DISK_SIZE}"):
            export_image(store, "disk", device, force=True)
        assert content(device) == OLD * size


def test_mounted_device_is_refused_untouched(store: Store, device: Path, tmp_path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True)
    mount = tmp_path / "mount"
    mount.mkdir()
    done = subprocess.run(["mount", device, mount], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        with pytest.raises(UsageError, match="in use"):
            export_image(store, "disk", device, force=True)
    finally:
        subprocess.run(["umount", mount], check=True)
    subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True)


def test_failure_says_that_the_device_is_partly_written(store: Store, device: Path) -> None:
    hurt_last_chunk(store)
    with pytest.raises(Corrupt, match=f"{device} is partly written"):
        export_image(store, "disk", device, force=True)


def test_termination_says_that_the_device_is_partly_written(store: Store, device: Path) -> None:
    program = f"""
import os, sys, time
def fsync(fd):
    print("syncing", flush=True)
    time.sleep(600)
os.fsync = fsync
from dataplane.cli.main import main
sys.exit(main(["export", {str(store.path)!r}, "disk", {str(device)!r}, "--force", "--progress", "none"]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "syncing\n"
        child.send_signal(signal.SIGTERM)
        said = child.stderr.read()
    assert child.returncode == 143
    assert said == f"dataplane: terminated; {device} is partly written\n"


def test_verify_notices_what_the_device_changed(store: Store, device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataplane.ingest import exporting

    real = export_targets.drop_cached

    def drop(target: export_targets.OpenTarget) -> None:
        os.pwrite(target.fd, b"x", 5 * MIB)
        real(target)

    monkeypatch.setattr(exporting, "drop_cached", drop)
    with pytest.raises(Corrupt, match="does not read back"):
        export_image(store, "disk", device, force=True, verify=True)
