"""Garbage collection frees what nobody needs, and never what somebody does, whatever goes on beside it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataplane.errors import AlreadyExists, Corrupt, LeaseLost, NotFound, StoreLocked
from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import ImportResult, import_image, prepare_import
from dataplane.store import lease as leases
from dataplane.store.statistics import store_sizes
from dataplane.store.store import Store
from dataplane.upkeep.gc import GcReport, collect, only_collector
from dataplane.upkeep.scrub import scrub
from tests.disks import KIB, MIB, write_sparse

CHUNK_SIZE = 16 * KIB


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store with small chunks."""
    return Store.create(tmp_path / "store", chunk_size=CHUNK_SIZE)


def disk(store: Store, seed: int, size: int = 2 * MIB) -> Path:
    """Return a raw disk, made once a seed; disks of different seeds share nothing."""
    path = store.path.parent / f"disk-{seed}-{size}"
    if not path.exists():
        rnd = random.Random(seed)
        write_sparse(
            path, rnd.randbytes(size // 2) + bytes(size // 4) + rnd.randbytes(64).hex().encode() * (size // 512)
        )
    return path


def bring(store: Store, name: str, path: Path) -> ImportResult:
    with open_source(path, format="raw") as source:
        return import_image(store, source, name=name)


def assert_whole(store: Store, **images: Path) -> None:
    """Every image reads back as its disk, a scrub finds nothing, and files and ledger agree."""
    target = store.path.parent / "out.raw"
    for name, path in images.items():
        export_image(store, name, target, force=True)
        assert target.read_bytes() == path.read_bytes(), name
    assert scrub(store).damage == []
    assert {path.stem for path in store.layout.packs.glob("*/*")} == {name.hex() for name in store.ledger.packs()}
    assert {path.stem for path in store.layout.runs.iterdir()} == {name.hex() for name in store.ledger.runs()}


def collect_now(store: Store) -> GcReport:
    return collect(store, grace_s=0, undelete_s=0, fence_s=0.2)


def test_empty_store_has_nothing_to_collect(store: Store) -> None:
    report = collect_now(store)
    assert (report.condemned_packs, report.deleted_packs, report.waiting_packs) == (0, 0, 0)


def test_removed_image_is_freed_and_the_others_stay(store: Store) -> None:
    bring(store, "a", disk(store, 1))
    bring(store, "b", disk(store, 2))
    before = store_sizes(store).physical_size
    store.unpin("a")
    report = collect_now(store)
    assert report.deleted_packs == 1
    assert store_sizes(store).physical_size == before - report.deleted_size
    assert_whole(store, b=disk(store, 2))
    store.unpin("b")
    collect_now(store)
    assert (store_sizes(store).physical_size, store.ledger.runs()) == (0, [])
    assert_whole(store)
    bring(store, "a", disk(store, 1))
    assert_whole(store, a=disk(store, 1))


def test_shared_chunks_move_out_of_a_mostly_dead_pack(store: Store) -> None:
    data = disk(store, 1).read_bytes()
    small = write_sparse(store.path.parent / "small", data[: 256 * KIB])
    bring(store, "big", disk(store, 1))
    assert bring(store, "small", small).bytes_written < 20_000  # a manifest page and a root
    store.unpin("big")
    before = store_sizes(store).physical_size
    report = collect_now(store)
    assert report.rewritten_packs >= 1
    assert report.deleted_packs >= 1
    assert store_sizes(store).physical_size < before / 2
    assert_whole(store, small=small)
    assert collect_now(store).rewritten_packs == 0, "a second collection has nothing left to do"


def test_grace_period_keeps_condemned_packs(store: Store) -> None:
    bring(store, "a", disk(store, 1))
    store.unpin("a")
    first = collect(store)
    assert (first.condemned_packs, first.deleted_packs, first.waiting_packs) == (1, 0, 1)
    second = collect(store)
    assert (second.condemned_packs, second.deleted_packs, second.waiting_packs) == (0, 0, 1)
    assert collect_now(store).deleted_packs == 1


def test_dry_run_changes_nothing(store: Store) -> None:
    bring(store, "a", disk(store, 1))
    store.unpin("a")
    report = collect(store, dry_run=True)
    assert report.condemned_packs == 1
    assert report.condemned_size == store_sizes(store).physical_size > 0
    assert store.ledger.condemned_packs() == {}


def test_undelete_until_the_period_is_over(store: Store) -> None:
    bring(store, "a", disk(store, 1))
    store.unpin("a", undeletable=True)
    assert collect(store, grace_s=0).condemned_packs == 0
    store.undelete("a")
    assert_whole(store, a=disk(store, 1))
    store.unpin("a", undeletable=True)
    bring(store, "a", disk(store, 2))
    with pytest.raises(AlreadyExists):
        store.undelete("a")
    assert collect_now(store).forgotten_images == 1
    with pytest.raises(NotFound, match="undelete period"):
        store.undelete("a")
    assert_whole(store, a=disk(store, 2))


def test_new_image_does_not_rely_on_condemned_packs(store: Store) -> None:
    bring(store, "a", disk(store, 1))
    store.unpin("a")
    collect(store)
    again = bring(store, "a", disk(store, 1))
    assert again.bytes_written > again.sizes.storage_size
    assert collect_now(store).deleted_packs == 1
    assert_whole(store, a=disk(store, 1))


def test_writer_that_began_before_the_collection_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of PSA-2025-00019-1: a backup finds chunks of an older one, that one is removed, the collector runs to
    its end, the backup is committed."""
    monkeypatch.setattr(leases, "BEAT_S", 0.05)
    bring(store, "older", disk(store, 1))
    with open_source(disk(store, 1), format="raw") as source, prepare_import(store, source) as prepared:
        assert prepared.bytes_written == 0
        store.unpin("older")
        report = collect(store, grace_s=0, undelete_s=0, fence_s=5)
        assert (report.condemned_packs, report.deleted_packs, report.waiting_packs) == (1, 0, 1)
        prepared.pin("newer")
    report = collect_now(store)
    assert (report.revived_packs, report.deleted_packs) == (1, 0)
    assert_whole(store, newer=disk(store, 1))


def test_writer_that_stands_still_is_fenced_and_fails_cleanly(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 1000.0)
    bring(store, "older", disk(store, 1))
    with open_source(disk(store, 1), format="raw") as source, prepare_import(store, source) as prepared:
        store.unpin("older")
        report = collect_now(store)
        assert (report.fenced_leases, report.deleted_packs) == (1, 1)
        with pytest.raises(LeaseLost, match="start it again"):
            prepared.pin("newer")
    assert store.pins() == []
    bring(store, "newer", disk(store, 1))
    assert_whole(store, newer=disk(store, 1))


def test_killed_writer_does_not_hold_the_collector_up(store: Store) -> None:
    bring(store, "a", disk(store, 1))
    script = (
        "import sys, time; from dataplane import Store; store = Store.open(sys.argv[1]);"
        "lease = store.lease('import'); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(store.path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(leases.lease_rows(store.ledger)) == 1
    store.unpin("a")
    started = time.monotonic()
    report = collect(store, grace_s=0, undelete_s=0, fence_s=30)
    assert (report.deleted_packs, report.fenced_leases) == (1, 0)
    assert time.monotonic() - started < 20
    assert leases.lease_rows(store.ledger) == []


def test_reader_keeps_a_removed_image_readable(store: Store) -> None:
    bring(store, "a", disk(store, 1))
    with store.reading("a") as pin:
        store.unpin("a")
        assert collect_now(store).deleted_packs == 0
        assert store.read_root(store.index(), pin.root, pin.domain).virtual_size == pin.virtual_size
    assert collect_now(store).deleted_packs == 1


def test_crash_leaves_files_that_are_removed_when_no_one_is_at_work(store: Store) -> None:
    bring(store, "a", disk(store, 1))
    orphans = [store.layout.pack(os.urandom(32)), store.layout.run(os.urandom(32))]
    for path in orphans:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left by a crash")
    with store.lease("import"):
        assert collect_now(store).removed_orphans == 0
    assert collect_now(store).removed_orphans == 2
    assert_whole(store, a=disk(store, 1))


def test_damaged_manifest_stops_the_collector(store: Store) -> None:
    bring(store, "a", disk(store, 1))
    bring(store, "b", disk(store, 2))
    store.unpin("b")
    pack, offset, length, _ = store.index().require(store.pin("a").root)
    path = store.layout.pack(pack)
    path.chmod(0o600)
    with open(path, "r+b") as file:
        file.seek(offset + length // 2)
        file.write(b"\xff\xff")
    with pytest.raises(Corrupt):
        collect_now(store)
    assert store.ledger.condemned_packs() == {}


def test_one_collector_at_a_time(store: Store) -> None:
    with only_collector(store), pytest.raises(StoreLocked, match="another collection"):
        collect(store)


def test_clock_that_jumps_deletes_no_living_chunk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.05)
    real = time.time_ns
    bring(store, "a", disk(store, 1))
    with open_source(disk(store, 1), format="raw") as source, prepare_import(store, source) as prepared:
        store.unpin("a")
        collect(store)
        for years in (10, -10, 0):
            monkeypatch.setattr(time, "time_ns", lambda years=years: real() + years * 365 * 86400 * 10**9)
            assert collect(store, grace_s=3600, fence_s=5).deleted_packs == 0
        prepared.pin("b")
    collect(store, grace_s=3600, fence_s=5)
    assert_whole(store, b=disk(store, 1))


def test_commands(store: Store, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        command = [sys.executable, "-m", "dataplane", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    run("import", store.path, disk(store, 1), "--name", "a")
    run("rm", store.path, "a")
    run("undelete", store.path, "a")
    run("rm", store.path, "a")
    assert json.loads(run("gc", store.path, "--json"))["condemned_packs"] == 0
    report = json.loads(run("gc", store.path, "--undelete-period", "0", "--grace", "0s", "--json"))
    assert (report["forgotten_images"], report["deleted_packs"]) == (1, 1)
