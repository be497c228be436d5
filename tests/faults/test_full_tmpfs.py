"""A disk that is 100 % full: images can be read, removed and collected, whatever little is left."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_full_disk import in_namespace
from tests.disks import KIB, disk_bytes

FILLED_KIB = (0, 4, 16, 36, 64, 100, 256, 700, 1100)
"""What is left free, in KiB: nothing, and less than this and that file of SQLite's needs."""

FULL = """
set -e
mount -t tmpfs -o size=12m none "$1"
cd "$1"
python=$2 kept=$3 gone=$4 left=$5 big=$6
"$python" -m dataplane init store --chunk-size 4K >/dev/null 2>&1
"$python" -m dataplane import store "$kept" --name kept --progress none >/dev/null
"$python" -m dataplane import store "$gone" --name gone --progress none >/dev/null
set +e
[ "$left" = 0 ] || head -c "${left}k" /dev/zero >left
cat /dev/zero >filler 2>/dev/null
rm -f left
"$python" -m dataplane ls store >/dev/null && echo listed
"$python" -m dataplane export store kept - --progress none 2>/dev/null | cmp - "$kept" && echo readable
"$python" -m dataplane import store "$big" --name new --progress none && echo imported
"$python" -m dataplane rm store gone && echo removed
"$python" -m dataplane undelete store gone && echo undeleted
"$python" -m dataplane rm store gone && echo removed again
"$python" -m dataplane gc store --grace 0 --undelete-period 0 >/dev/null && echo collected
[ "$(df --output=avail -k . | tail -1)" -gt 1000 ] && echo room
"$python" -m dataplane export store kept - --progress none 2>/dev/null | cmp - "$kept" && echo still readable
"$python" -m dataplane verify store --progress none >/dev/null && echo sound
[ -f store/reserve ] && echo reserve
exit 0
"""
FACTS = ["listed", "readable", "removed", "undeleted", "removed again", "collected", "room", "still readable", "sound"]


def full_disk(folder: Path, left: int) -> subprocess.CompletedProcess[str]:
    """Fill a tmpfs up to `left` KiB, and let a store on it be used."""
    (folder / "mnt").mkdir()
    kept, gone = folder / "kept", folder / "gone"
    kept.write_bytes(disk_bytes(512 * KIB, seed=1, block=4 * KIB))
    (folder / "big").write_bytes(random.Random(1).randbytes(4096 * KIB))
    gone.write_bytes(disk_bytes(8192 * KIB, seed=2, block=4 * KIB))
    return in_namespace(FULL, folder / "mnt", sys.executable, kept, gone, left, folder / "big")


def assert_usable(folder: Path, left: int) -> None:
    done = full_disk(folder, left)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line != "reserve"] == FACTS, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if "no space left" in line]) == 1  # the import


@pytest.fixture(autouse=True)
def needs_tmpfs() -> None:
    if in_namespace("mount -t tmpfs none /mnt").returncode != 0:
        pytest.skip("this kernel lets neither this user nor a user namespace mount a tmpfs")


def test_full_tmpfs_can_be_read_and_emptied(tmp_path: Path) -> None:
    assert_usable(tmp_path, 0)


@pytest.mark.slow
@pytest.mark.parametrize("left", FILLED_KIB[1:])
def test_nearly_full_tmpfs_can_be_read_and_emptied(tmp_path: Path, left: int) -> None:
    assert_usable(tmp_path, left)
