"""Real damage of each kind: what can be had again is, nothing is deleted, and what stays hurt is named."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.errors import StoreIncompatible, StoreLocked
from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import import_image
from dataplane.store import merging
from dataplane.store.checkpoints import Checkpoint, checkpoints, save_checkpoint
from dataplane.store.recounting import recount_store
from dataplane.store.statistics import store_sizes
from dataplane.store.store import Store
from dataplane.upkeep.donors import Donor
from dataplane.upkeep.gc import collect
from dataplane.upkeep.hurt_images import hurt_images
from dataplane.upkeep.ledger_rebuild import what_is_wrong_with
from dataplane.upkeep.repair import RepairReport, images_of, repair
from dataplane.upkeep.scrub import scrub
from tests.disks import KIB, disk_bytes, write_sparse
from tests.postgres import CHOICE

CHUNK = 4 * KIB
SIZE = 200 * KIB


with_a_ledger_file = pytest.mark.skipif(CHOICE in os.environ, reason="a server keeps its databases whole itself")


def disk(folder: Path, name: str) -> Path:
    """Disks ``a`` and ``b`` share half; equal names give equal disks."""
    seeds = {"a": (1, 2), "b": (2, 3), "c": (4, 5)}[name]
    data = b"".join(disk_bytes(SIZE // 2, seed=seed, block=CHUNK) for seed in seeds)
    return write_sparse(folder / f"{name}.raw", data)


def bring(store: Store, folder: Path, name: str, domain: str = "") -> None:
    with open_source(disk(folder, name), format="raw") as source:
        import_image(store, source, name=name, domain=domain, threads=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with images a, b and (in another dedup domain) c, each with a pack of its own."""
    with Store.create(tmp_path / "store", chunk_size=CHUNK) as store:
        bring(store, tmp_path, "a")
        bring(store, tmp_path, "b")
        bring(store, tmp_path, "c", domain="folder")
    return tmp_path / "store"


def place_of(path: Path, name: str, offset: int) -> tuple[Path, int, int]:
    """Return (pack, offset, stored length) of the chunk of an image at `offset`; of the root when it is negative."""
    with Store.open(path) as store:
        pin = store.pin(name)
        index = store.index()
        id = pin.root
        if offset >= 0:
            ((_, page),) = store.read_pages(index, store.read_root(index, pin.root, pin.domain))
            id = page[offset // CHUNK * 32 :][:32]
        pack, at, length, _ = index.require(id)
        return store.layout.pack(pack), at, length


def page_place(path: Path, name: str) -> tuple[Path, int, int]:
    with Store.open(path) as store:
        pin, index = store.pin(name), store.index()
        ((_, page_id),) = store.read_root(index, pin.root, pin.domain).pages
        pack, at, length, _ = index.require(page_id)
        return store.layout.pack(pack), at, length


def flip(file: Path, at: int) -> None:
    file.chmod(0o600)
    with open(file, "r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte[0] ^ 0x40]))


def hurt_chunk(path: Path, name: str, offset: int) -> Path:
    file, at, length = place_of(path, name, offset)
    flip(file, at + length // 2)
    return file


def donor(file: Path) -> Donor:
    return Donor(str(file), lambda: open_source(file, format="raw"))


def assert_whole(path: Path, *names: str) -> None:
    with Store.open(path) as store:
        assert scrub(store, threads=1).damage == []
        assert hurt_images(store, store.index(), (), store.pins()) == []
        assert {pin.name for pin in store.pins()} >= set(names)
        for name in names:
            export_image(store, name, path.parent / "out.raw", force=True, threads=1)
            expected = disk(path.parent, name.removesuffix("-again")).read_bytes()
            assert (path.parent / "out.raw").read_bytes() == expected, name
        assert store_sizes(store) == recount_store(store)
        assert {file.stem for file in store.layout.packs.glob("*/*")} == {name.hex() for name in store.ledger.packs()}
        assert {file.stem for file in store.layout.runs.iterdir()} == {name.hex() for name in store.ledger.runs()}
        collect(store, grace_s=0, undelete_s=0, fence_s=1)
        assert scrub(store, threads=1).damage == []
    assert what_is_wrong_with(path) is None


def kept(path: Path) -> set[str]:
    return {file.name for file in (path / "quarantine").iterdir()} if (path / "quarantine").exists() else set()


def test_sound_store_is_left_alone(path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*.pack")}
    report = repair(path)
    assert (report.damaged_chunks, report.rebuilt_runs, report.quarantined, report.hurt) == (0, 0, [], [])
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*.pack")} == before
    assert_whole(path, "a", "b", "c")


@pytest.mark.parametrize("offset", [0, SIZE - 1, -1], ids=["first", "last", "root"])
def test_hurt_chunk_comes_back_from_a_source(path: Path, offset: int) -> None:
    file = hurt_chunk(path, "a", offset)
    damaged = file.read_bytes()
    report = repair(path, [donor(disk(path.parent, "c")), donor(disk(path.parent, "a"))])
    assert (report.damaged_chunks, report.healed_chunks, report.hurt) == (1, 1, [])
    assert report.quarantined == [file.name]
    assert (path / "quarantine" / file.name).read_bytes() == damaged
    assert_whole(path, "a", "b", "c")


def test_hurt_page_comes_back_and_what_it_names(path: Path) -> None:
    chunk = hurt_chunk(path, "a", 0)
    file, at, length = page_place(path, "a")
    assert file == chunk
    flip(file, at + length // 2)
    report = repair(path, [donor(disk(path.parent, "a"))])
    assert (report.damaged_chunks, report.healed_chunks, report.hurt) == (2, 2, [])
    assert_whole(path, "a", "b", "c")


def test_what_stays_hurt_is_named_and_the_rest_is_good(path: Path) -> None:
    hurt_chunk(path, "a", 0)
    report = repair(path)
    assert (report.damaged_chunks, report.healed_chunks) == (1, 0)
    assert [(image.name, image.ranges) for image in report.hurt] == [("a", ((0, CHUNK),))]
    with Store.open(path) as store:
        assert scrub(store).damage == []
        assert [(image.name, image.ranges) for image in hurt_images(store, store.index(), (), store.pins())] == [
            ("a", ((0, CHUNK),))
        ]
        collect(store, grace_s=0, undelete_s=0, fence_s=1)  # goes on, although a chunk is known to be lost
        for name in ("b", "c"):
            export_image(store, name, path.parent / "out.raw", force=True)
        bring_again(store, path.parent, "a")
    assert_whole(path, "a", "a-again", "b", "c")
    assert repair(path).hurt == []


def bring_again(store: Store, folder: Path, name: str) -> None:
    """Importing the same data again heals what repair has taken out of the index."""
    with open_source(disk(folder, name), format="raw") as source:
        import_image(store, source, name=f"{name}-again", threads=1)


def test_hurt_chunk_comes_back_from_another_store(path: Path, tmp_path: Path) -> None:
    with Store.create(tmp_path / "other", chunk_size=16 * KIB) as other:
        bring(other, tmp_path, "c")
        bring(other, tmp_path, "a")
        hurt_chunk(path, "a", 0)
        hurt_chunk(path, "c", SIZE - 1)
        assert [d.name for d in images_of(other, ["c"])] == [f"image {n} of {other.path}" for n in ("c", "a")]
        report = repair(path, images_of(other))
    assert (report.damaged_chunks, report.healed_chunks, report.hurt) == (2, 2, [])
    assert_whole(path, "a", "b", "c")


def test_hurt_chunk_comes_back_from_another_pack(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two imports that ran at once hold a chunk each; runs are merged, and the index knows one of them."""
    with Store.open(path) as store:
        monkeypatch.setattr(type(store), "index", lambda store, **_: store.index_without(store.ledger.packs().keys()))
        bring_again(store, path.parent, "a")
        monkeypatch.undo()
        monkeypatch.setattr(merging, "TIER_FACTOR", 2)
        with store.lease("test") as lease:
            merging.merge_runs(store, lease)
        assert len(store.ledger.runs()) == 1
    file = hurt_chunk(path, "a", 0)
    report = repair(path)
    assert (report.damaged_chunks, report.healed_chunks, report.hurt) == (1, 1, [])
    assert file.name in kept(path)
    assert_whole(path, "a", "b", "c", "a-again")


PackHarm = Callable[[Path], None]
PACK_HARM: dict[str, PackHarm] = {
    "missing": lambda file: file.unlink(),
    "header": lambda file: flip(file, 33),
    "magic": lambda file: flip(file, 0),
    "table": lambda file: flip(file, file.stat().st_size - 100),
    "footer": lambda file: flip(file, file.stat().st_size - 10),
    "short": lambda file: shorten(file, file.stat().st_size // 2),
    "empty": lambda file: shorten(file, 0),
}


def shorten(file: Path, size: int) -> None:
    file.chmod(0o600)
    with open(file, "r+b") as opened:
        opened.truncate(size)


@pytest.mark.parametrize("harm", PACK_HARM)
def test_hurt_pack(path: Path, harm: str) -> None:
    file = place_of(path, "a", 0)[0]
    PACK_HARM[harm](file)
    report = repair(path, [donor(disk(path.parent, "a"))])
    assert report.hurt == []
    assert report.damaged_chunks == report.healed_chunks
    assert (report.healed_chunks > 0) == (harm in ("missing", "short", "empty"))
    assert kept(path) == (set() if harm == "missing" else {file.name})
    assert_whole(path, "a", "b", "c")


@pytest.mark.parametrize("harm", ["missing", "flip", "short", "all"])
def test_hurt_runs_are_rebuilt(path: Path, harm: str) -> None:
    runs = sorted(path.glob("runs/*.run"))
    if harm == "missing":
        runs[0].unlink()
    elif harm == "flip":
        flip(runs[0], runs[0].stat().st_size // 2)
    elif harm == "short":
        shorten(runs[0], 10)
    else:
        for file in runs:
            flip(file, 70)
    report = repair(path)
    assert report.rebuilt_runs >= 1
    assert (report.hurt, report.damaged_chunks) == ([], 0)
    assert kept(path) == {"missing": set(), "all": {f.name for f in runs}}.get(harm, {runs[0].name})
    assert_whole(path, "a", "b", "c")


@with_a_ledger_file
@pytest.mark.parametrize("harm", ["missing", "junk", "short", "page"])
def test_lost_ledger_is_rebuilt(path: Path, harm: str) -> None:
    ledger = path / "ledger.sqlite3"
    with Store.open(path) as store:
        pins = store.pins()
        store.unpin("b", undeletable=True)
    if harm == "missing":
        ledger.unlink()
    elif harm == "junk":
        ledger.write_bytes(b"not a database at all" * 1000)
    elif harm == "short":
        shorten(ledger, ledger.stat().st_size // 2)
    else:
        damage_page_of(ledger, "packs")
    report = repair(path)
    assert report.ledger is not None
    assert report.hurt == []
    if harm == "page":  # names and removals can be read
        assert (report.ledger.named, report.ledger.recovered) == (["a", "c"], [])
        with Store.open(path) as store:
            assert store.pins() == [pin for pin in pins if pin.name != "b"]
            store.undelete("b")
        assert_whole(path, "a", "b", "c")
        return
    names = sorted([*report.ledger.named, *report.ledger.recovered])
    assert len(names) == 3
    with Store.open(path) as store:
        by_root = {pin.root: pin for pin in store.pins()}
        for pin in pins:
            again = by_root[pin.root]
            assert replace(again, name=pin.name, format=pin.format, created_at=pin.created_at) == pin
            export_image(store, again.name, path.parent / "out.raw", force=True)
            assert (path.parent / "out.raw").read_bytes() == disk(path.parent, pin.name).read_bytes()
    assert_whole(path)
    assert ("ledger.sqlite3" in kept(path)) == (harm != "missing")


def damage_page_of(ledger: Path, table: str) -> None:
    """Overwrite the first page of a table."""
    with sqlite3.connect(ledger) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((number,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))
        ((size,),) = connection.execute("PRAGMA page_size")
    connection.close()
    with open(ledger, "r+b") as opened:
        opened.seek((number - 1) * size)
        opened.write(b"\xff" * size)


@with_a_ledger_file
def test_lost_ledger_and_runs_and_a_damaged_chunk(path: Path) -> None:
    hurt_chunk(path, "a", 0)
    (path / "ledger.sqlite3").unlink()
    shutil.rmtree(path / "runs")
    (path / "runs").mkdir()
    report = repair(path, [donor(disk(path.parent, "a"))])
    assert report.ledger is not None
    assert (len(report.ledger.recovered), report.healed_chunks, report.hurt) == (3, 1, [])
    assert_whole(path)


@with_a_ledger_file
def test_image_that_is_partly_collected_is_not_recovered(path: Path) -> None:
    pack = place_of(path, "b", 0)[0]
    assert pack == place_of(path, "a", -1)[0] != place_of(path, "b", -1)[0]
    (path / "ledger.sqlite3").unlink()
    pack.unlink()
    report = repair(path)
    assert report.ledger is not None
    assert len(report.ledger.recovered) == 1
    assert len(report.ledger.incomplete) == 1
    assert report.hurt == []
    assert_whole(path)


@with_a_ledger_file
def test_ledger_is_not_rebuilt_while_others_are_at_work(path: Path) -> None:
    with Store.open(path) as store, store.lease("import"):
        (path / "ledger.sqlite3").rename(path / "elsewhere")
        with pytest.raises(StoreLocked, match="stop them first"):
            repair(path)
        (path / "elsewhere").rename(path / "ledger.sqlite3")
    assert repair(path).ledger is None


@with_a_ledger_file
def test_another_stores_ledger_is_not_replaced(path: Path, tmp_path: Path) -> None:
    Store.create(tmp_path / "other").close()
    shutil.copy(tmp_path / "other" / "ledger.sqlite3", path / "ledger.sqlite3")
    with pytest.raises(StoreIncompatible, match="another store"):
        repair(path)


def test_same_file_damaged_twice_is_kept_twice(path: Path) -> None:
    (run, *_) = sorted(path.glob("runs/*.run"))
    for at in (70, 80):
        flip(run, at)
        repair(path)
    assert kept(path) == {run.name, f"{run.name}.1"}
    assert_whole(path, "a", "b", "c")


def test_reader_that_began_before_reads_on(path: Path) -> None:
    file = hurt_chunk(path, "a", 0)
    with Store.open(path) as store, store.reading("b"):
        index = store.index()
        report = repair(path)
        assert [image.name for image in report.hurt] == ["a"]
        assert file.exists(), "the pack holds chunks of b too, and a reader may have yet to open it"
        for pack in index.packs:
            assert store.layout.pack(pack).exists()
    repair(path)
    assert not file.exists()
    assert kept(path) == {file.name}


def test_donor_that_is_damaged_itself_gives_what_it_has(path: Path, tmp_path: Path) -> None:
    with Store.create(tmp_path / "other", chunk_size=CHUNK) as other:
        bring(other, tmp_path, "a")
    hurt_chunk(path, "a", 0)
    hurt_chunk(tmp_path / "other", "a", SIZE - 1)
    hurt_chunk(path, "a", SIZE // 2 - 1)
    with Store.open(tmp_path / "other") as other:
        report: RepairReport = repair(path, images_of(other))
    assert report.healed_chunks == 2
    assert report.hurt == []


def test_hurt_counts_are_noticed_and_made_anew(path: Path) -> None:
    with Store.open(path) as store:
        assert store_sizes(store) == recount_store(store)
    file = min((path / "counts").iterdir())
    flip(file, 70)
    with Store.open(path) as store:
        assert any(file.name in problem for problem in scrub(store, threads=1).run_damage)
    assert repair(path).hurt == []
    with Store.open(path) as store:
        assert store_sizes(store) == recount_store(store)
        assert scrub(store, threads=1).run_damage == []


def test_checkpoints_that_name_what_is_lost_do_not_stop_the_collector(path: Path) -> None:
    with Store.open(path) as store:
        pin = store.pin("a")
        file, at, length = place_of(path, "a", -1)
        with store.ledger.transaction() as connection:
            save_checkpoint(
                connection,
                Checkpoint(
                    lease="gone", owner="", source=b"s", domain=pin.domain, root=pin.root, position=0,
                    saved_at=time.time_ns() // 1000,
                ),
            )  # fmt: skip
        store.unpin("a")
    flip(file, at + length // 2)
    repair(path)
    with Store.open(path) as store:
        assert checkpoints(store.ledger) == []
    assert_whole(path, "b", "c")


def test_command(path: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dataplane", *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)

    hurt_chunk(path, "a", 0)
    first = run("repair", path, "--json", "--progress", "none")
    assert first.returncode == 3, first.stderr
    assert json.loads(first.stdout)["hurt"] == [{"name": "a", "ranges": [[0, CHUNK]]}]
    assert run("verify", path, "--progress", "none").returncode == 3
    assert run("repair", path, "--source", tmp_path / "none.raw").returncode == 4
    healed = run("repair", path, "--source", disk(tmp_path, "a"), "--format", "raw", "--progress", "none")
    assert (healed.returncode, "all images whole" in healed.stdout) == (0, True), healed.stderr
    assert run("verify", path, "--progress", "none").returncode == 0
    assert run("repair", tmp_path).returncode == 5
