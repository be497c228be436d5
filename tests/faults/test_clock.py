"""Clocks that jump by hours or years, either way, under processes at work: no live lease ends, no live chunk goes."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataplane.store.store import Store
from tests.disks import KIB, disk_bytes, write_sparse
from tests.faults.scripts import Expected, assert_images, assert_tidy, bring
from tests.faults.shim import shimmed_environment

HOUR_S = 3600
YEAR_S = 365 * 86400
JUMPS_S = (2 * HOUR_S, 10 * YEAR_S, -2 * HOUR_S, -10 * YEAR_S, 0)

WRITER = """
import sys, time
from dataplane import Store, open_source
from dataplane.ingest.importing import prepare_import
from dataplane.store import lease
lease.BEAT_S = 0.05
with Store.open(sys.argv[1]) as store, open_source(sys.argv[2], format="raw") as source:
    with prepare_import(store, source, threads=1) as prepared:
        print(prepared.bytes_written, flush=True)
        sys.stdin.readline()
        prepared.pin("new")
print(time.time(), flush=True)
"""

READER = """
import sys
import time
from dataplane import Store
from dataplane.store import lease
lease.BEAT_S = 0.05
with Store.open(sys.argv[1]) as store:
    with store.reading("old"):
        print("reading", flush=True)
        sys.stdin.readline()
"""


class Clock:
    """What processes with the shim take for the time of day."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.move(0)

    def move(self, seconds: int) -> None:
        """Let it jump to so many seconds from the right time, in running processes as well."""
        with open(self._path, "r+b" if self._path.exists() else "wb") as file:
            file.write(struct.pack("<q", seconds * 10**9))

    def environment(self) -> dict[str, str]:
        """Return the environment of processes that live by it."""
        return {**shimmed_environment(), "FAULT_CLOCK": str(self._path)}

    def start(self, script: str, *words: object) -> subprocess.Popen[str]:
        """Start a Python script that waits for a line on its standard input."""
        command = [sys.executable, "-c", script, *map(str, words)]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment()
        )

    def collect(self, store: Path) -> dict[str, int]:
        """Run a collection and return its report."""
        command = [sys.executable, "-m", "dataplane", "gc", store, "--grace", "1h", "--undelete-period", "1000000d"]
        done = subprocess.run(
            [*map(str, command), "--fence-after", "30s", "--json"],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
            env=self.environment(),
        )
        report: dict[str, int] = json.loads(done.stdout)
        return report


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """A clock that is right."""
    return Clock(tmp_path / "clock")


def test_shim_moves_the_clock(clock: Clock) -> None:
    clock.move(10 * YEAR_S)
    script = "import time; print(time.time(), time.time_ns() // 10**9)"
    told = subprocess.run(
        [sys.executable, "-c", script], env=clock.environment(), capture_output=True, text=True, check=True
    ).stdout.split()
    assert all(abs(float(text) - time.time() - 10 * YEAR_S) < HOUR_S for text in told)


def test_clock_jumps_beside_a_writer_and_a_reader(clock: Clock, tmp_path: Path) -> None:
    """A writer found all of its chunks in an image that is removed then, and a reader reads that image."""
    old = write_sparse(tmp_path / "old", disk_bytes(512 * KIB, seed=1, block=4 * KIB))
    with Store.create(tmp_path / "store", chunk_size=4 * KIB) as store:
        bring(store, "old", old)
        bring(store, "kept", old)
        writer, reader = clock.start(WRITER, store.path, old), clock.start(READER, store.path)
        assert writer.stdout is not None
        assert reader.stdout is not None
        assert writer.stdout.readline() == "0\n"
        assert reader.stdout.readline() == "reading\n"
        store.unpin("old")
        store.unpin("kept", undeletable=True)
        store.undelete("kept")
        store.unpin("kept")
        for seconds in (*JUMPS_S, *reversed(JUMPS_S)):
            clock.move(seconds)
            report = clock.collect(store.path)
            assert (report["fenced_leases"], report["deleted_packs"]) == (0, 0), f"{seconds} s"
        writer.communicate("\n", timeout=60)
        reader.communicate("\n", timeout=60)
        assert (writer.returncode, reader.returncode) == (0, 0)
        state = Expected(images={"new": "old"}, removed={})
        assert_images(store, state, tmp_path, tmp_path / "check")
        assert_tidy(store, state, tmp_path, tmp_path / "check")


def test_removed_image_stays_undeletable_when_the_clock_goes_back(clock: Clock, tmp_path: Path) -> None:
    disk = write_sparse(tmp_path / "disk", disk_bytes(128 * KIB, seed=1, block=4 * KIB))
    with Store.create(tmp_path / "store", chunk_size=4 * KIB) as store:
        bring(store, "disk", disk)
        store.unpin("disk", undeletable=True)
        for seconds in (-10 * YEAR_S, -2 * HOUR_S, 0):
            clock.move(seconds)
            assert clock.collect(store.path)["forgotten_images"] == 0
        store.undelete("disk")
        assert_images(store, Expected(images={"disk": "disk"}, removed={}), tmp_path, tmp_path / "check")
