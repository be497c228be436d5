"""Sizes that depend on other images, beside a count of every manifest: after any history, and whatever is damaged."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dataplane.formats.probe import open_source
from dataplane.ingest.importing import import_image
from dataplane.store import counted_roots, counting
from dataplane.store.counting import update_counts
from dataplane.store.recounting import recount_image, recount_store
from dataplane.store.statistics import ImageSizes, StoreSizes, image_sizes, store_sizes
from dataplane.store.store import Store
from dataplane.upkeep.gc import collect
from tests.disks import KIB, disk_bytes, write_sparse
from tests.store.test_golden_store import open_golden

NAMES = st.sampled_from("abcdef")
PIECES = st.lists(st.integers(0, 9), max_size=6)


def bring(store: Store, name: str, pieces: list[int], domain: str = "") -> None:
    """Import a disk put together of pieces of four chunks: equal pieces are shared."""
    data = b"".join(disk_bytes(16 * KIB, seed=piece, block=4 * KIB) for piece in pieces)
    with open_source(write_sparse(store.path.parent / "disk", data or bytes(4096)), format="raw") as source:
        import_image(store, source, name=name, domain=domain, threads=1)


def assert_counts_are_true(store: Store) -> None:
    assert store_sizes(store) == recount_store(store)
    for pin in store.pins():
        assert image_sizes(store, pin.name) == recount_image(store, pin), pin.name
    live = {str(name) for (name,) in store.ledger.query("SELECT name FROM count_files")}
    if store.layout.counts.exists():
        assert live >= {path.stem for path in store.layout.counts.iterdir()}, "nothing is left behind"


class Counts(RuleBasedStateMachine):
    """Images come and go; some commits are not followed by counting, as after a crash."""

    @initialize()
    def create(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store.create(self.folder / "store", chunk_size=4 * KIB)

    @rule(name=NAMES, pieces=PIECES, domain=st.sampled_from(["", "other"]))
    def bring(self, name: str, pieces: list[int], domain: str) -> None:
        if not self.store.ledger.has_pin(name):
            bring(self.store, name, pieces, domain)

    @rule(name=NAMES, count=st.booleans())
    def remove(self, name: str, count: bool) -> None:
        if self.store.ledger.has_pin(name):
            self.store.unpin(name, undeletable=True)
            if count:
                update_counts(self.store)

    @rule()
    def undelete(self) -> None:
        for pin, _ in self.store.ledger.removed_pins():
            if not self.store.ledger.has_pin(pin.name):
                self.store.undelete(pin.name)
                return

    @rule(forget=st.booleans())
    def collect(self, forget: bool) -> None:
        collect(self.store, grace_s=0, undelete_s=0 if forget else 3600, fence_s=0.01)

    @rule()
    def lose_counts(self) -> None:
        if self.store.layout.counts.exists():
            for path in sorted(self.store.layout.counts.iterdir())[:1]:
                path.unlink()

    @invariant()
    def counts_are_true(self) -> None:
        if hasattr(self, "store"):
            assert_counts_are_true(self.store)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)


TestCounts = Counts.TestCase
TestCounts.settings = settings(max_examples=12, stateful_step_count=14)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store", chunk_size=4 * KIB)


def test_sizes_of_two_images_that_share(store: Store) -> None:
    bring(store, "a", [1, 2, 3])
    bring(store, "b", [3, 4])
    before = store_sizes(store)
    unique = image_sizes(store, "b").unique_size
    assert 0 < unique < store.pin("b").storage_size
    store.unpin("b")
    after = store_sizes(store)
    assert before.live_size - after.live_size == unique
    assert (after.unique_size, image_sizes(store, "a").shared_size) == (after.live_size, 0)


def count_file_entries(store: Store) -> list[int]:
    return sorted(int(str(entries)) for (entries,) in store.ledger.query("SELECT entries FROM count_files"))


def test_versions_of_a_disk_share_a_count_file(store: Store) -> None:
    bring(store, "a", [1, 2, 3, 4])
    (first,) = count_file_entries(store)
    bring(store, "b", [1, 2, 3, 5])
    (both,) = count_file_entries(store)
    assert first < both < 2 * first
    assert_counts_are_true(store)
    store.unpin("b")
    update_counts(store)
    assert count_file_entries(store) == [first]
    assert_counts_are_true(store)


def test_strangers_have_count_files_of_their_own(store: Store) -> None:
    bring(store, "a", [1, 2])
    bring(store, "b", [3, 4])
    assert len(count_file_entries(store)) == 2
    assert_counts_are_true(store)


def test_a_small_version_does_not_rewrite_a_large_count_file(store: Store) -> None:
    bring(store, "a", [1, 2, 3, 4, 5, 6, 7, 8, 9])
    bring(store, "b", [1])
    assert len(count_file_entries(store)) == 2
    assert_counts_are_true(store)


def test_stat_reads_no_manifest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bring(store, "a", [1, 2])
    bring(store, "b", [2, 3])
    sizes = store_sizes(store), image_sizes(store, "a")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("stat must not look into packs or runs")

    for what in ("read_chunk", "read_root", "read_pages", "index", "index_without"):
        monkeypatch.setattr(Store, what, refuse)
    assert (store_sizes(store), image_sizes(store, "a")) == sizes


def test_large_images_are_counted_in_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "IDS_MAX", 256)
    monkeypatch.setattr(counting, "STEP_IDS", 3)
    bring(store, "a", [1, 2, 3, 1])
    bring(store, "b", [3, 4, 5])
    assert_counts_are_true(store)
    store.unpin("a")
    assert_counts_are_true(store)


def test_damaged_count_file_is_made_anew(store: Store) -> None:
    bring(store, "a", [1, 2])
    (file,) = store.layout.counts.iterdir()
    file.chmod(0o600)
    for at in (0, 70, 200, file.stat().st_size - 1):
        with open(file, "r+b") as opened:
            opened.seek(at)
            byte = opened.read(1)
            opened.seek(at)
            opened.write(bytes([byte[0] ^ 1]))
        bring(store, f"b{at}", [2, at])
        assert_counts_are_true(store)
        file = max(store.layout.counts.iterdir(), key=lambda path: path.stat().st_size)
        file.chmod(0o600)


def test_image_with_a_damaged_manifest_is_left_out(store: Store) -> None:
    bring(store, "a", [1, 2])
    bring(store, "b", [2, 3])
    expected = store_sizes(store).live_size
    counted_roots.forget_counts(store)
    pack, offset, _, _ = store.index().require(store.pin("b").root)
    path = store.layout.pack(pack)
    path.chmod(0o600)
    with open(path, "r+b") as opened:
        opened.seek(offset)
        opened.write(bytes(8))
    sizes = store_sizes(store)
    assert (sizes.damaged_images, sizes.images) == (1, 2)
    assert sizes.live_size == store.pin("a").storage_size < expected


def test_removed_image_whose_manifest_is_gone_is_counted_out(store: Store) -> None:
    bring(store, "a", [1, 2])
    bring(store, "b", [2, 3])
    pack, *_ = store.index().require(store.pin("b").root)
    store.unpin("b")
    store.layout.pack(pack).unlink()
    sizes = store_sizes(store)
    assert sizes.live_size == image_sizes(store, "a").unique_size == store.pin("a").storage_size


def test_store_that_cannot_be_written_is_recounted(tmp_path: Path) -> None:
    with open_golden(tmp_path, may_write=False) as store:
        pin = store.pin("disk")
        sizes: tuple[ImageSizes, StoreSizes] = image_sizes(store, "disk"), store_sizes(store)
        assert sizes[0] == ImageSizes(unique_size=pin.storage_size, shared_size=0)
        assert sizes[1].live_size == sizes[1].unique_size == pin.storage_size
    with Store.open(tmp_path / "store") as store:
        assert (image_sizes(store, "disk"), store_sizes(store)) == sizes
