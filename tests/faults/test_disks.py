"""Disks under faults: killed at every call that changes the disk, power cut there, full disks and failing ones."""

from __future__ import annotations

import errno
import shutil
import signal
from pathlib import Path

import pytest

from dataplane.disks.disk import open_disk
from dataplane.disks.pinning import delete_disk
from dataplane.disks.snapshot import snapshot_disk
from dataplane.errors import NotFound
from dataplane.ingest.exporting import export_image
from dataplane.store.store import Store
from dataplane.upkeep.gc import collect
from dataplane.upkeep.scrub import scrub
from tests.faults.apart import apart
from tests.faults.cut_disk import CutDisk
from tests.faults.disk_script import BLOCK, SNAPSHOT, states, what_may_be
from tests.faults.figures import Figures
from tests.faults.forker import Forker, Outcome
from tests.faults.shim import EVERY, GROWING, Fault, Kind, Mode

SCRIPT = "tests.faults.disk_script:run"
SLICE = 6


def run_with(forker: Forker, folder: Path, notes: Path, fault: Fault, mount: Path | None = None) -> Outcome:
    notes.unlink(missing_ok=True)
    return forker.run([[SCRIPT, folder / "store", folder / "disk", notes]], folder, fault, mount)


def assert_survived(folder: Path, template: Path, notes: Path, out: Path, mode: Mode) -> None:
    """The disk has what was acknowledged, or after a power cut what was flushed, and the store is sound.

    A write that is torn ends in the middle of a block, which no kill does to a real one: the kernel copies whole pages.
    Such a block may be a mixture, or what it was at the last flush.
    """
    everything = states((template / "a").read_bytes())
    created, possible, ended = what_may_be(notes, everything)
    with Store.open(folder / "store") as store:
        try:
            disk = open_disk(store, folder / "disk")
        except NotFound:
            assert not created
            return
        with disk:
            found = bytes(disk.read(0, disk.size))
            if mode not in (Mode.TEAR, Mode.CUT, Mode.CUT_AFTER):
                possible = [everything[ended], possible[-1]]
            assert_blocks(found, possible, mixed=mode == Mode.TEAR)
            snapshot_disk(store, disk, name="check", threads=1)
            collect(store, grace_s=0, undelete_s=0, fence_s=1)
            assert disk.read(0, disk.size) == found
        export_image(store, "check", out, force=True, threads=1)
        assert out.read_bytes() == found
        if store.ledger.has_pin(SNAPSHOT):
            export_image(store, SNAPSHOT, out, force=True, threads=1)
            assert out.read_bytes() == everything[13]
        else:
            assert "s" not in notes.read_text()
        assert scrub(store, threads=1).damage == []
        delete_disk(store, folder / "disk")
        kept = {"a", "b", "check", SNAPSHOT}
        assert {pin.name for pin in store.pins()} <= kept
        assert [path.name for path in store.layout.temporary.iterdir()] == ["lock"]


def assert_blocks(found: bytes, possible: list[bytes], *, mixed: bool) -> None:
    """Each block is what it was in one of the states; behind the end of a smaller one are zeros.

    `mixed` allows one that is old in a part and new in the rest.
    """
    torn = []
    for at in range(0, len(found), BLOCK):
        block = found[at : at + BLOCK]
        states = [state[at : at + BLOCK].ljust(len(block), b"\0") for state in possible]
        if block not in states:
            torn.append(at)
            assert mixed, f"block at {at}"
            assert all(byte in column for byte, column in zip(block, zip(*states, strict=True), strict=True))
    assert len(torn) <= 1, f"blocks at {torn}"


def break_everywhere(forker: Forker, template: Path, tmp_path: Path, fault: Fault, points: int | None = None) -> int:
    """Run the script with a fault at each of its calls, or at `points` of them; return how often."""
    folder, notes, out = tmp_path / "bench", tmp_path / "notes", tmp_path / "out"

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template / "store", folder / "store")

    prepare()
    whole = run_with(forker, folder, notes, Fault(kinds=fault.kinds))
    assert (whole.code, whole.errors) == (0, "")
    total = len(whole.calls)
    places = range(1, total + 1, 1 if points is None else max(1, total // points))
    for at in places:
        prepare()
        outcome = run_with(forker, folder, notes, Fault(mode=fault.mode, at=at, kinds=fault.kinds, error=fault.error))
        try:
            if fault.mode in (Mode.KILL, Mode.TEAR):
                assert outcome.code == -signal.SIGKILL
            assert_survived(folder, template, notes, out, fault.mode)
        except Exception as error:
            last = outcome.calls[-1] if outcome.calls else "no call"
            raise AssertionError(f"call {at} of {total}, {last}: {outcome.code} {outcome.errors}") from error
    return len(places)


@pytest.mark.parametrize("mode", [Mode.KILL, Mode.TEAR])
def test_killed_slice(forker: Forker, template: Path, tmp_path: Path, mode: Mode) -> None:
    assert break_everywhere(forker, template, tmp_path, Fault(mode=mode), SLICE) > 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Mode.KILL, Mode.TEAR])
def test_killed_at_every_call(forker: Forker, template: Path, tmp_path: Path, mode: Mode, figures: Figures) -> None:
    figures.add("killed at a call", f"disk {mode.name}", break_everywhere(forker, template, tmp_path, Fault(mode=mode)))


@pytest.mark.parametrize(
    ("mode", "error", "kinds"),
    [
        (Mode.FAIL, errno.ENOSPC, GROWING),
        (Mode.FAIL_ON, errno.ENOSPC, GROWING),
        (Mode.FAIL, errno.EIO, EVERY),
        (Mode.SHORTEN, 0, Kind.WRITE),
    ],
)
def test_failing_calls_slice(
    forker: Forker, template: Path, tmp_path: Path, mode: Mode, error: int, kinds: Kind
) -> None:
    """What was acknowledged is there, whatever failed later."""
    fault = Fault(mode=mode, kinds=kinds, error=error)
    assert break_everywhere(forker, template, tmp_path, fault, SLICE) > 0


def cut_everywhere(
    forker: Forker, disk: CutDisk, template: Path, tmp_path: Path, fault: Fault, points: int | None = None
) -> int:
    notes = tmp_path / "notes"
    disk.fill(template / "store", "store")
    total = len(run_with(forker, disk.mount_point, notes, Fault(kinds=fault.kinds), disk.mount_point).calls)
    places = range(1, total + 1, 1 if points is None else max(1, total // points))
    for at in places:
        disk.fill(template / "store", "store")
        planned = Fault(mode=fault.mode, at=at, kinds=fault.kinds, error=fault.error)
        outcome = run_with(forker, disk.mount_point, notes, planned, disk.mount_point)
        disk.restart()
        try:
            apart(assert_survived, disk.mount_point, template, notes, tmp_path / "out", Mode.CUT)
        except Exception as error:
            last = outcome.calls[-1] if outcome.calls else "no call"
            raise AssertionError(f"call {at} of {total}, {last}: {outcome.code} {outcome.errors}") from error
    return len(places)


def test_power_cut_slice(private_forker: Forker, disk: CutDisk, template: Path, tmp_path: Path) -> None:
    fault = Fault(mode=Mode.CUT_AFTER, kinds=Kind.SYNC | Kind.RENAME)
    assert cut_everywhere(private_forker, disk, template, tmp_path, fault, 4) > 0


@pytest.mark.slow
def test_power_cut_at_every_call(
    private_forker: Forker, disk: CutDisk, template: Path, tmp_path: Path, figures: Figures
) -> None:
    for name, fault in (
        ("power cut before a call", Fault(mode=Mode.CUT, kinds=EVERY)),
        ("power cut after a sync", Fault(mode=Mode.CUT_AFTER, kinds=Kind.SYNC)),
        ("fsync failed, then power cut", Fault(mode=Mode.FAIL, kinds=Kind.SYNC, error=errno.EIO)),
    ):
        count = cut_everywhere(private_forker, disk, template, tmp_path, fault)
        figures.add(name, f"{disk.mount_point.name} disk", count)
