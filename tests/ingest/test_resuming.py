"""Imports that are interrupted go on from their checkpoint, and end with what an uninterrupted one finds."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.errors import Cancelled, Corrupt, InvalidImage, SourceUnavailable
from dataplane.extent import WINDOW_SIZE, Extent, ExtentKind
from dataplane.ingest import checkpointing
from dataplane.ingest.checkpointing import Checkpointing
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import ImportResult, import_image, prepare_import
from dataplane.ingest.progress import Progress
from dataplane.limits import KIB, MIB
from dataplane.store.checkpoints import checkpoints
from dataplane.store.store import Store
from dataplane.upkeep.gc import GcReport, collect
from dataplane.upkeep.scrub import scrub
from tests.disks import disk_bytes
from tests.ingest.test_prefetch import ListedSource, SlowReader
from tests.postgres import PostgresServer


class Versioned(SlowReader):
    """A reader whose bytes have a version that survives a restart; it may fail from a place on."""

    def __init__(self, content: bytes, version: str | None = "1", fail_from: int | None = None) -> None:
        super().__init__(content)
        self.known_as = version
        self.fail_from = fail_from

    def version(self) -> str | None:
        return self.known_as

    def first_asked(self) -> int:
        return min((offset for offset, _ in self.asked), default=self.size)


def disk_of(reader: SlowReader) -> ListedSource:
    """Return the disk that is `reader` from end to end."""
    return ListedSource(reader, [Extent(0, reader.size, ExtentKind.DATA, source_length=reader.size)])


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_always(monkeypatch)


def keep_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be a checkpoint after every window, and no window before it is through."""
    begin = Checkpointing.keep

    def keep(self: Checkpointing, position: int, root: bytes, storage_size: int) -> None:
        begin(self, position, root, storage_size)
        self.finish()

    monkeypatch.setattr(Checkpointing, "keep", keep)
    monkeypatch.setattr(checkpointing, "INTERVAL_MIN_S", 0.0)
    monkeypatch.setattr(checkpointing, "INTERVAL_SIZE", 1)
    monkeypatch.setattr(checkpointing, "SHARE", 0.0)


@pytest.fixture
def store(tmp_path: Path, eager: None) -> Iterator[Store]:
    with Store.create(tmp_path / "store") as made:
        yield made


@pytest.fixture
def empty(store: Store, tmp_path: Path) -> Path:
    """A store as the other one was when nothing was in it yet."""
    return Path(shutil.copytree(store.path, tmp_path / "empty"))


CONTENT = disk_bytes(41 * MIB + 5 * KIB)


def bring(store: Store, reader: SlowReader, name: str = "disk", threads: int = 1) -> ImportResult:
    return import_image(store, disk_of(reader), name=name, threads=threads)


def interrupt(store: Store, place: int, *, threads: int = 1, content: bytes = CONTENT) -> int:
    """Import a disk that cannot be read from `place` on; return the position of the checkpoint that is left."""
    with pytest.raises(SourceUnavailable):
        bring(store, Versioned(content, fail_from=place), threads=threads)
    return max((found.position for found in checkpoints(store.ledger)), default=0)


def assert_complete(store: Store, folder: Path, content: bytes = CONTENT, name: str = "disk") -> None:
    """The image is whole, nothing of its import is left, and every chunk verifies."""
    export_image(store, name, folder / "out", force=True)
    assert (folder / "out").read_bytes() == content
    assert checkpoints(store.ledger) == []
    assert scrub(store).damage == []


def uninterrupted(empty: Path, content: bytes) -> ImportResult:
    """Import the same disk into an empty store with the same secret."""
    folder = empty.with_name("twin")
    shutil.copytree(empty, folder)
    with Store.open(folder) as twin:
        return bring(twin, Versioned(content, version=None))


def test_interrupted_import_reads_again_only_what_was_not_stored(store: Store, empty: Path, tmp_path: Path) -> None:
    position = interrupt(store, 30 * MIB)
    assert position == 28 * MIB
    again = Versioned(CONTENT)
    progress = Progress()
    result = import_image(store, disk_of(again), name="disk", threads=1, progress=progress)
    assert again.first_asked() >= position
    assert progress.resumed_bytes == position
    assert result.bytes_read == len(CONTENT) - position
    expected = uninterrupted(empty, CONTENT)
    assert (result.root, result.sizes) == (expected.root, expected.sizes)
    assert_complete(store, tmp_path)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    blocks=st.lists(st.sampled_from(range(6)), min_size=1, max_size=60),
    tail=st.sampled_from([512, 70 * KIB, MIB]),
    interruptions=st.lists(st.integers(0, 60 * MIB), max_size=4),
    chunk_size=st.sampled_from([4 * KIB, 64 * KIB, 4 * MIB]),
    threads=st.sampled_from([1, 3]),
)
def test_any_interruptions_end_in_the_same_image(
    tmp_path_factory: pytest.TempPathFactory,
    eager: None,
    blocks: list[int],
    tail: int,
    interruptions: list[int],
    chunk_size: int,
    threads: int,
) -> None:
    """Disks of few different blocks of 1 MiB, zeros among them, so that chunks come again on both sides of a break."""
    kinds = [bytes(MIB), *(disk_bytes(MIB, seed=seed, block=4 * KIB) for seed in range(4)), b"x" * MIB]
    content = b"".join(kinds[number] for number in blocks) + disk_bytes(tail, seed=9, block=512)
    folder = tmp_path_factory.mktemp("any")
    with Store.create(folder / "store", chunk_size=chunk_size) as store:
        expected = uninterrupted(Path(shutil.copytree(store.path, folder / "empty")), content)
        for place in interruptions:
            if place < len(content):
                interrupt(store, place, threads=threads, content=content)
        result = bring(store, Versioned(content), threads=threads)
        assert (result.root, result.sizes) == (expected.root, expected.sizes)
        assert_complete(store, folder, content)
    shutil.rmtree(folder)


def test_disk_that_ends_in_zeros_goes_on_behind_its_data(store: Store, tmp_path: Path) -> None:
    content = CONTENT[: 12 * MIB] + bytes(90 * MIB) + CONTENT[: 4 * MIB]
    position = interrupt(store, 12 * MIB, content=content)
    assert position == 12 * MIB
    bring(store, Versioned(content))
    assert_complete(store, tmp_path, content)


def test_other_version_of_the_source_starts_anew(store: Store, tmp_path: Path) -> None:
    assert interrupt(store, 30 * MIB) > 0
    other = Versioned(CONTENT, version="2")
    bring(store, other)
    assert other.first_asked() == 0
    assert [found.position > 0 for found in checkpoints(store.ledger)] == [True]  # the first is still worth its space
    again = Versioned(CONTENT)
    bring(store, again, "again")
    assert again.first_asked() > 0
    assert_complete(store, tmp_path)


def test_other_choice_of_the_same_bytes_starts_anew(store: Store) -> None:
    assert interrupt(store, 30 * MIB) > 0
    other = Versioned(CONTENT)
    source = disk_of(other)
    source.choice = "raw snapshot"
    import_image(store, source, name="snapshot")
    assert other.first_asked() == 0


def test_other_domain_starts_anew(store: Store) -> None:
    assert interrupt(store, 30 * MIB) > 0
    other = Versioned(CONTENT)
    import_image(store, disk_of(other), name="disk", domain="folder-b")
    assert other.first_asked() == 0


def test_source_that_would_not_be_known_again_has_no_checkpoints(store: Store) -> None:
    with pytest.raises(SourceUnavailable):
        bring(store, Versioned(CONTENT, version=None, fail_from=30 * MIB))
    assert checkpoints(store.ledger) == []
    assert store.ledger.packs() == {}


def test_collection_between_keeps_what_the_restart_goes_on_from(store: Store, tmp_path: Path) -> None:
    position = interrupt(store, 30 * MIB)
    packs = store.ledger.packs()
    for _ in range(2):
        report = collect(store, grace_s=0)
        assert (report.deleted_packs, report.forgotten_checkpoints) == (0, 0)
    assert store.ledger.packs() == packs
    again = Versioned(CONTENT)
    bring(store, again)
    assert again.first_asked() >= position
    assert_complete(store, tmp_path)


def test_checkpoint_that_nobody_comes_back_for_is_forgotten(store: Store) -> None:
    interrupt(store, 30 * MIB)
    assert collect(store, dry_run=True, checkpoint_s=0).forgotten_checkpoints == 1
    report = collect(store, grace_s=0, checkpoint_s=0)
    assert report.forgotten_checkpoints == 1
    assert checkpoints(store.ledger) == []
    assert store.ledger.packs() == {}
    again = Versioned(CONTENT)
    bring(store, again)
    assert again.first_asked() == 0


class Once(Versioned):
    """A reader that does something else, once, before it reads when `when` says so."""

    def __init__(self, content: bytes, action: Callable[[], object], when: Callable[[], object] = lambda: True) -> None:
        super().__init__(content)
        self.action = action
        self.when = when
        self.done = False
        self._once = threading.Lock()

    def read_at(self, offset: int, length: int) -> bytes:
        with self._once:
            if not self.done and self.when():
                self.done = True
                self.action()
        return super().read_at(offset, length)


def test_checkpoint_of_an_import_under_way_outlives_any_period(store: Store, tmp_path: Path) -> None:
    interrupt(store, 30 * MIB)
    reports: list[GcReport] = []
    reader = Once(CONTENT, lambda: reports.append(collect(store, grace_s=0, checkpoint_s=0)))
    bring(store, reader)
    assert [(report.forgotten_checkpoints, report.deleted_packs) for report in reports] == [(0, 0)]
    assert reader.first_asked() > 0
    assert_complete(store, tmp_path)


@pytest.mark.parametrize("collected", [False, True])
def test_packs_condemned_while_a_checkpoint_comes_to_need_them(store: Store, tmp_path: Path, collected: bool) -> None:
    bring(store, Versioned(CONTENT[: 20 * MIB], version=None), "first")

    def condemn() -> None:
        store.unpin("first")
        assert collect(store).condemned_packs > 0

    reader = Once(CONTENT, condemn)  # its import has opened the index by then
    reader.fail_from = 30 * MIB
    with pytest.raises(SourceUnavailable):
        bring(store, reader)
    assert [found.position for found in checkpoints(store.ledger)] == [28 * MIB]
    assert store.ledger.condemned_packs()
    if collected:
        assert collect(store, grace_s=0).revived_packs == 1
    again = Once(CONTENT, lambda: collect(store, grace_s=0))
    bring(store, again)
    assert again.first_asked() >= 28 * MIB
    collect(store, grace_s=0)
    assert_complete(store, tmp_path)


def test_two_imports_of_one_source_at_once(store: Store, tmp_path: Path) -> None:
    interrupt(store, 14 * MIB)
    results = {}

    def work(name: str) -> None:
        with Store.open(store.path) as mine:
            results[name] = bring(mine, Versioned(CONTENT), name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results["a"].root == results["b"].root
    assert results["a"].sizes == results["b"].sizes
    for name in ("a", "b"):
        assert_complete(store, tmp_path, name=name)


def test_second_import_goes_on_from_what_one_under_way_has_done(store: Store, tmp_path: Path) -> None:
    content = CONTENT * 3
    second = Versioned(content)

    def bring_second() -> None:
        with Store.open(store.path) as mine:
            bring(mine, second, "second")

    first = Once(content, bring_second, lambda: checkpoints(store.ledger))
    bring(store, first, "first")
    assert first.done
    assert second.first_asked() > 0
    for name in ("first", "second"):
        assert_complete(store, tmp_path, content, name)


@pytest.mark.parametrize("resumes", [False, True])
def test_cancelled_import_leaves_a_checkpoint_only_for_a_successor(store: Store, resumes: bool) -> None:
    cancelled = threading.Event()

    class Cancelling(Versioned):
        def read_at(self, offset: int, length: int) -> bytes:
            if checkpoints(store.ledger):
                cancelled.set()
            return super().read_at(offset, length)

    content = CONTENT * 3
    with pytest.raises(Cancelled):
        prepare_import(
            store, disk_of(Cancelling(content)), threads=1, cancelled=cancelled, owner="op", resumes=lambda: resumes
        )
    assert [found.owner for found in checkpoints(store.ledger)] == (["op"] if resumes else [])
    store.forget_checkpoints("other")
    assert bool(checkpoints(store.ledger)) == resumes
    store.forget_checkpoints("op")
    assert checkpoints(store.ledger) == []


def test_import_of_a_bad_image_leaves_no_checkpoint(store: Store) -> None:
    reader = Versioned(CONTENT)
    half = len(CONTENT) // WINDOW_SIZE // 2 * WINDOW_SIZE
    source = ListedSource(
        reader,
        [Extent(0, half, ExtentKind.DATA, source_length=half)],
        then=InvalidImage("the table is damaged"),
    )
    source.virtual_size = len(CONTENT)
    interrupt(store, 14 * MIB)
    with pytest.raises(InvalidImage):
        import_image(store, source, name="disk", threads=1)
    assert checkpoints(store.ledger) == []
    collect(store, grace_s=0)
    assert store.ledger.packs() == {}


def test_checkpoint_with_a_lost_pack_is_left_behind(store: Store, tmp_path: Path) -> None:
    interrupt(store, 30 * MIB)
    for run in store.ledger.runs():
        store.layout.run(run).unlink()
    with store.ledger.transaction() as connection:
        store.ledger.remove_objects(connection, store.ledger.packs(), store.ledger.runs())
    again = Versioned(CONTENT)
    bring(store, again)
    assert again.first_asked() == 0
    assert_complete(store, tmp_path)


def test_checkpoint_whose_position_rotted_is_not_believed(store: Store, tmp_path: Path) -> None:
    """From a later position on, the image would have zeros where there is data."""
    assert interrupt(store, 30 * MIB) == 28 * MIB
    with store.ledger.transaction() as connection:
        connection.execute("UPDATE checkpoints SET position = ?", (36 * MIB,))
    with pytest.raises(Corrupt, match=r"in checkpoints does not match its checksum"):
        scrub(store)
    again = Versioned(CONTENT)
    bring(store, again)
    assert again.first_asked() == 0
    assert_complete(store, tmp_path)


def test_pin_that_is_rolled_back_leaves_no_checkpoint(store: Store) -> None:
    interrupt(store, 30 * MIB)

    def pin_and_fail() -> None:
        with prepare_import(store, disk_of(Versioned(CONTENT))) as prepared, store.ledger.transaction() as connection:
            prepared.pin("a", connection=connection)
            raise RuntimeError("rolled back")

    with pytest.raises(RuntimeError, match="rolled back"):
        pin_and_fail()
    assert checkpoints(store.ledger) == []
    assert store.pins() == []
    collect(store, grace_s=0)
    assert store.ledger.packs() == {}


def test_ledger_in_a_database_server_keeps_checkpoints_too(
    tmp_path: Path, eager: None, postgres_server: PostgresServer
) -> None:
    with Store.create(tmp_path / "store", ledger_url=postgres_server.new_database()) as store:
        position = interrupt(store, 30 * MIB)
        assert position == 28 * MIB
        collect(store, grace_s=0)
        again = Versioned(CONTENT)
        bring(store, again)
        assert again.first_asked() >= position
        assert_complete(store, tmp_path)
        store.unpin("disk")
        interrupt(store, 30 * MIB, content=CONTENT[::-1])
        assert collect(store, grace_s=0, checkpoint_s=0).forgotten_checkpoints == 1
        store.forget_checkpoints("nobody")
        assert checkpoints(store.ledger) == []
