"""Random histories by seed, and real processes that are stopped past their leases at random moments."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataplane.errors import StoreLocked
from dataplane.store import ledger_file
from dataplane.store.store import Store
from dataplane.upkeep.gc import collect
from tests.disks import KIB, disk_bytes, write_sparse
from tests.faults.figures import Figures
from tests.faults.histories import replay
from tests.faults.scripts import Expected, assert_images, assert_tidy, bring

SEEDS = 2_500
"""Ten thousand are a command: python -m tests.faults.histories --seed 0 --count 10000."""
SEEDS_SLICE = 60
STOPS = 40
STORE_CODE, DONE = 5, 0

IMPORT_SLOWLY = """
import sys, time
from dataplane import Store, open_source, import_image
from dataplane.cli.main import guarded
from dataplane.store import lease
lease.BEAT_S = 0.05
def run():
    with Store.open(sys.argv[1]) as store, open_source(sys.argv[2], format="raw") as source:
        print("ready", flush=True)
        import_image(store, source, name="new", threads=1)
    return 0
sys.exit(guarded(run))
"""


def test_histories_slice() -> None:
    for seed in range(SEEDS_SLICE):
        replay(seed)


@pytest.mark.slow
def test_histories(figures: Figures) -> None:
    for seed in range(SEEDS):
        replay(seed)
    figures.add("random history", "seeds from 0", SEEDS)


def stop_past_lease(folder: Path, seed: int) -> int:
    """Stop an import at a moment that the seed chooses until its lease is given up; return its exit code.

    What it relies on, an image that is removed meanwhile, is collected at once.
    """
    rnd = random.Random(seed)
    shared = disk_bytes(1024 * KIB, seed=seed, block=4 * KIB)
    old = write_sparse(folder / "old", shared)
    new = write_sparse(folder / "new", shared + disk_bytes(1024 * KIB, seed=seed + 1, block=4 * KIB))
    with Store.create(folder / "store", chunk_size=4 * KIB) as store:
        bring(store, "old", old)
        command = [sys.executable, "-c", IMPORT_SLOWLY, str(store.path), str(new)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(rnd.uniform(0.0, 0.12))
        writer.send_signal(signal.SIGSTOP)
        # Stopped inside a transaction it holds the ledger as well: others are told so, and nothing else happens.
        with contextlib.suppress(StoreLocked):
            store.unpin("old")
            collect(store, grace_s=0, undelete_s=0, fence_s=0.3)
        writer.send_signal(signal.SIGCONT)
        _, errors = writer.communicate(timeout=60)
        names = {pin.name for pin in store.pins()} - {"old"}
        assert names == ({"new"} if writer.returncode == DONE else set())
        assert writer.returncode == DONE or (len(errors.splitlines()) == 1 and "start it again" in errors), errors
        state = Expected(images={pin.name: pin.name for pin in store.pins()}, removed={})
        assert_images(store, state, folder, folder / "check")
        assert_tidy(store, state, folder, folder / "check")
    return writer.returncode


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "BUSY_TIMEOUT_S", 3.0)


def test_writer_stopped_past_its_lease(tmp_path: Path) -> None:
    assert stop_past_lease(tmp_path, 1) in (DONE, STORE_CODE)


@pytest.mark.slow
def test_writers_stopped_past_their_leases(tmp_path: Path, figures: Figures) -> None:
    codes = []
    for seed in range(STOPS):
        (tmp_path / str(seed)).mkdir()
        codes.append(stop_past_lease(tmp_path / str(seed), seed))
    assert codes.count(STORE_CODE) > 0
    figures.add("stopped past its lease", "fenced", codes.count(STORE_CODE))
    figures.add("stopped past its lease", "was through already, or began again in time", codes.count(DONE))
