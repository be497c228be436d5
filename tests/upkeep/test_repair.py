"""Real damage of each kind: what can be had again is, nothing is deleted, and what stays hurt is named."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.errors import NoSpace
from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import import_image
from dataplane.store import merging
from dataplane.store.checkpoints import Checkpoint, checkpoints, save_checkpoint
from dataplane.store.pack import PackSet
from dataplane.store.recounting import recount_store
from dataplane.store.statistics import store_sizes
from dataplane.store.store import Store
from dataplane.upkeep import donors
from dataplane.upkeep.donors import Donor
from dataplane.upkeep.gc import collect
from dataplane.upkeep.hurt_images import hurt_images
from dataplane.upkeep.ledger_rebuild import what_is_wrong_with
from dataplane.upkeep.repair import RepairReport, images_of, repair
from dataplane.upkeep.scrub import scrub
from tests.disks import KIB, disk_bytes, write_sparse

CHUNK = 4 * KIB
SIZE = 200 * KIB


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
    return three_images(tmp_path)


def three_images(folder: Path) -> Path:
    """Make that store in a folder and return its path."""
    with Store.create(folder / "store", chunk_size=CHUNK) as store:
        bring(store, folder, "a")
        bring(store, folder, "b")
        bring(store, folder, "c", domain="folder")
    return folder / "store"


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


def test_store_without_room_is_not_taken_for_a_bad_donor(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurt_chunk(path, "a", 0)
    with monkeypatch.context() as patch:
        patch.setattr(donors, "HealingSink", SinkWithoutRoom)
        with pytest.raises(NoSpace):
            repair(path, [donor(disk(path.parent, "a"))])
    assert repair(path, [donor(disk(path.parent, "a"))]).hurt == []
    assert_whole(path, "a", "b", "c")


class FullPacks:
    """Packs on a disk with no room left."""

    def append(self, *_args: object) -> None:
        raise NoSpace("no space left")


class SinkWithoutRoom(donors.HealingSink):
    def __init__(self, _packs: PackSet, wanted: set[bytes], found_all: threading.Event) -> None:
        super().__init__(FullPacks(), wanted, found_all)  # type: ignore[arg-type]


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
