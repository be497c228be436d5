"""Windows without new chunks are scanned where they lie; one that has some after all is read again, and believed only
when it says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplane.engine.window import Window
from dataplane.errors import SourceUnavailable
from dataplane.formats.probe import open_source
from dataplane.ingest import pipeline
from dataplane.ingest.exporting import export_image
from dataplane.ingest.feed import Claim
from dataplane.ingest.importing import import_image
from dataplane.limits import MIB
from dataplane.store.store import Store
from dataplane.upkeep.scrub import scrub
from tests.disks import disk_bytes

SIZE = 24 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(disk_bytes(SIZE, seed=1))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def read_again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Scan in place from the first window on, and note the offsets of windows that are read again."""
    offsets: list[int] = []
    load_again = pipeline.Pipeline._load_again

    def noted(self: pipeline.Pipeline, claim: Claim[None], window: Window) -> None:
        offsets.append(window.offset)
        load_again(self, claim, window)

    monkeypatch.setattr(pipeline, "KNOWN_WINDOWS", 0)
    monkeypatch.setattr(pipeline.Pipeline, "_load_again", noted)
    return offsets


def bring(store: Store, disk: Path, name: str) -> None:
    with open_source(str(disk), format="raw") as source:
        import_image(store, source, name=name, threads=1)


def test_a_window_with_new_chunks_is_read_again(
    store: Store, disk: Path, read_again: list[int], tmp_path: Path
) -> None:
    bring(store, disk, "first")
    assert read_again
    export_image(store, "first", tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == disk.read_bytes()
    assert not scrub(store).damage


def test_what_is_stored_is_not_read_again(store: Store, disk: Path, read_again: list[int]) -> None:
    bring(store, disk, "first")
    read_again.clear()
    bring(store, disk, "second")
    assert not read_again
    assert store.pin("first").root == store.pin("second").root


def test_only_what_is_known_is_scanned_in_place(
    store: Store, disk: Path, read_again: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "KNOWN_WINDOWS", 8)
    bring(store, disk, "first")
    assert not read_again


def test_a_source_that_changes_between_the_two_readings_is_refused(
    store: Store, disk: Path, read_again: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_again = pipeline.Pipeline._load_again

    def changed(self: pipeline.Pipeline, claim: Claim[None], window: Window) -> None:
        with disk.open("r+b") as file:
            file.seek(window.offset + 5)
            byte = file.read(1)
            file.seek(window.offset + 5)
            file.write(bytes([byte[0] ^ 1]))
        load_again(self, claim, window)

    monkeypatch.setattr(pipeline.Pipeline, "_load_again", changed)
    with pytest.raises(SourceUnavailable, match="changed between"):
        bring(store, disk, "first")
    assert read_again
    assert not list(store.pins())
