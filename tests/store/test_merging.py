"""Runs of like size become one; what they find stays the same, and a crash at any step does no harm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import import_image, prepare_import
from dataplane.store import merging
from dataplane.store.merging import TIER_ENTRIES_MIN, TIER_FACTOR, arranging_runs, merge_runs, pick_group, tier_of
from dataplane.store.store import Store
from tests.disks import KIB, disk_bytes, write_sparse


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store", chunk_size=4 * KIB)


def bring(store: Store, name: str, seed: int) -> bytes:
    data = disk_bytes(64 * KIB, seed=seed, block=4 * KIB)
    with open_source(write_sparse(store.path.parent / "disk", data), format="raw") as source:
        import_image(store, source, name=name)
    return data


def test_many_small_imports_leave_few_runs(store: Store) -> None:
    images = {f"image-{seed}": bring(store, f"image-{seed}", seed) for seed in range(14)}
    assert len(store.ledger.runs()) < TIER_FACTOR
    assert len(store.ledger.packs()) == 14
    for name, data in images.items():
        export_image(store, name, store.path.parent / "out", force=True)
        assert (store.path.parent / "out").read_bytes() == data
    assert {path.stem for path in store.layout.runs.iterdir()} == {name.hex() for name in store.ledger.runs()}


@given(entries=st.lists(st.integers(1, 1 << 20), max_size=60), entries_max=st.sampled_from([1 << 14, 1 << 20, 1 << 24]))
def test_merging_ends_with_no_full_tier_and_nothing_too_large(entries: list[int], entries_max: int) -> None:
    sizes = {bytes([place]): count for place, count in enumerate(entries)}
    written = 0
    while group := pick_group(sizes, entries_max):
        assert len(group) >= TIER_FACTOR
        total = sum(sizes.pop(name) for name in group)
        written += total
        assert total <= entries_max
        sizes[os.urandom(8)] = total
    tiers = [tier_of(count) for count in sizes.values()]
    for tier in set(tiers):
        small = TIER_ENTRIES_MIN * TIER_FACTOR**tier * TIER_FACTOR <= entries_max
        assert tiers.count(tier) < TIER_FACTOR or not small
    assert written <= sum(entries) * 8, "an entry is written once a tier"


def test_merged_run_prefers_what_is_not_condemned(store: Store) -> None:
    bring(store, "a", 1)
    with open_source(store.path.parent / "disk", format="raw") as source, prepare_import(store, source) as prepared:
        assert prepared.bytes_written == 0
    (first,) = store.ledger.packs()
    store.ledger.condemn([first])
    bring(store, "b", 1)
    (second,) = store.ledger.packs().keys() - {first}
    names = store.ledger.runs()
    index = store.index_without(())
    for order in ((0, 1), (1, 0)):
        with store.lease("test") as lease:
            name, path, count = merging.write_merged(
                [index.runs[i] for i in order], [index.packs_of_runs[i] for i in order], lease.path, spare={first}
            )
            with store.ledger.transaction() as connection:
                path.rename(store.layout.run(name))
                store.ledger.remove_objects(connection, [], names)
                store.ledger.add_objects(connection, [], [(name, count)])
            names = [name]
        assert store.index().require(store.pin("b").root)[0] == second
        names = store.ledger.runs()


def test_two_arrange_one_after_the_other(store: Store) -> None:
    with arranging_runs(store) as first, arranging_runs(store, wait=False) as second:
        assert (first, second) == (True, False)


@pytest.mark.parametrize("step", ["write_merged", "publish", "unlink"])
def test_a_merge_that_stops_anywhere_loses_nothing(store: Store, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "merge_small_runs", lambda _: 0)
    images = {}
    with monkeypatch.context() as patch:
        patch.setattr("dataplane.store.tidying.merge_small_runs", lambda _: 0)
        images = {f"image-{seed}": bring(store, f"image-{seed}", seed) for seed in range(TIER_FACTOR)}
    opened = store.index()
    with monkeypatch.context() as patch:
        patch.setattr(Path if step == "unlink" else merging, step, stop)
        with pytest.raises(KeyboardInterrupt), store.lease("test") as lease:
            merge_runs(store, lease)
    for index in (opened, store.index()):
        assert all(index.find(pin.root) for pin in store.pins())
    for name, data in images.items():
        export_image(store, name, store.path.parent / "out", force=True)
        assert (store.path.parent / "out").read_bytes() == data
    with store.lease("test") as lease:
        merge_runs(store, lease)
    assert len(store.ledger.runs()) == 1
    assert all(opened.find(pin.root) for pin in store.pins()), "who has the old runs open keeps them"


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
