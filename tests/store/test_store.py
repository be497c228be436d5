"""Creating and opening stores, and what is noticed when something in one is wrong."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from dataplane.errors import (
    Corrupt,
    NotFound,
    StoreError,
    StoreIncompatible,
    StoreMissing,
    UsageError,
)
from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import import_image
from dataplane.store.store import Store
from tests.disks import MIB, disk_bytes, write_sparse
from tests.postgres import CHOICE

with_a_ledger_file = pytest.mark.skipif(CHOICE in os.environ, reason="a server keeps its databases whole itself")


def filled_store(folder: Path, size: int = 3 * MIB + 512, chunk_size: int = 4096) -> tuple[Path, bytes]:
    """Return a store with one image, ``disk``, and the disk's bytes."""
    data = disk_bytes(size)
    raw = write_sparse(folder / "disk.raw", data)
    with Store.create(folder / "store", chunk_size=chunk_size) as store, open_source(raw) as source:
        import_image(store, source, name="disk")
    return folder / "store", data


def test_create_makes_a_store_that_opens(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s", chunk_size=8192, codec="zstd:3") as store:
        created = (store.chunk_size, str(store.codec), store.store_id)
    with Store.open(tmp_path / "s") as store:
        assert (store.chunk_size, str(store.codec), store.store_id) == created
        assert store.pins() == []
    assert (tmp_path / "s" / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_create_into_an_empty_folder_works(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    Store.create(tmp_path / "s").close()
    Store.open(tmp_path / "s").close()


def test_create_over_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "precious").touch()
    (tmp_path / "file").touch()
    for name in ("s", "file"):
        with pytest.raises(StoreError, match="is not empty"):
            Store.create(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "precious", "s"]


@pytest.mark.parametrize("chunk_size", [0, 1, 2048, 4095, 65537, 8 * MIB, -4096])
def test_create_bad_chunk_size_is_refused(tmp_path: Path, chunk_size: int) -> None:
    with pytest.raises(UsageError, match="power of two"):
        Store.create(tmp_path / "s", chunk_size=chunk_size)


@pytest.mark.parametrize("codec", ["", "gzip", "zstd:", "zstd:0", "zstd:99", "zstd:1x", "none:1", "zstd:-1000"])
def test_create_bad_codec_is_refused(tmp_path: Path, codec: str) -> None:
    if codec == "zstd:":
        Store.create(tmp_path / "s", codec=codec).close()  # no level: the default one
        return
    with pytest.raises(UsageError, match="not known"):
        Store.create(tmp_path / "s", codec=codec)


@pytest.mark.parametrize("what", ["nothing", "file", "empty"])
def test_open_what_is_no_store_is_missing(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StoreMissing, match="dataplane init"):
        Store.open(tmp_path / what)


def test_open_with_lost_secret_is_refused(tmp_path: Path) -> None:
    path, _ = filled_store(tmp_path)
    (path / "secret").unlink()
    with pytest.raises(StoreIncompatible, match="is missing"):
        Store.open(path)


def test_open_with_another_stores_secret_is_refused(tmp_path: Path) -> None:
    path, _ = filled_store(tmp_path)
    Store.create(tmp_path / "other").close()
    shutil.copy(tmp_path / "other" / "secret", path / "secret")
    with pytest.raises(StoreIncompatible, match="does not belong"):
        Store.open(path)


def test_open_with_readable_secret_is_refused(tmp_path: Path) -> None:
    path, _ = filled_store(tmp_path)
    (path / "secret").chmod(0o644)
    with pytest.raises(StoreIncompatible, match="chmod 600"):
        Store.open(path)


@with_a_ledger_file
def test_open_with_another_stores_ledger_is_refused(tmp_path: Path) -> None:
    path, _ = filled_store(tmp_path)
    Store.create(tmp_path / "other").close()
    shutil.copy(tmp_path / "other" / "ledger.sqlite3", path / "ledger.sqlite3")
    with pytest.raises(StoreIncompatible, match="another store"):
        Store.open(path)


@with_a_ledger_file
def test_open_with_a_lost_or_damaged_ledger_is_corrupt(tmp_path: Path) -> None:
    path, _ = filled_store(tmp_path)
    ledger = path / "ledger.sqlite3"
    ledger.write_bytes(b"not a database at all" * 1000)
    with pytest.raises(Corrupt, match="ledger"):
        Store.open(path)
    ledger.unlink()
    with pytest.raises(Corrupt, match="missing"):
        Store.open(path)


@with_a_ledger_file
def test_open_ledger_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path, _ = filled_store(tmp_path)
    with sqlite3.connect(path / "ledger.sqlite3") as connection:
        connection.execute("UPDATE ledger_meta SET value = '99' WHERE name = 'schema_version'")
    with pytest.raises(StoreIncompatible, match="schema version 99"):
        Store.open(path)


def test_unpin_removes_the_name_once(tmp_path: Path) -> None:
    path, _ = filled_store(tmp_path)
    with Store.open(path) as store:
        store.unpin("disk")
        with pytest.raises(NotFound, match="no image named 'disk'"):
            store.unpin("disk")


def export_bytes(path: Path, target: Path) -> bytes:
    with Store.open(path) as store:
        export_image(store, "disk", target, force=True)
    return target.read_bytes()


@pytest.mark.parametrize("kind", ["packs", "runs"])
@pytest.mark.parametrize("harm", ["missing", "short", "empty"])
def test_export_with_a_hurt_file_is_corrupt_and_leaves_nothing(tmp_path: Path, kind: str, harm: str) -> None:
    path, _ = filled_store(tmp_path)
    (victim,) = [file for file in (path / kind).rglob("*") if file.is_file()]
    victim.chmod(0o600)
    if harm == "missing":
        victim.unlink()
    else:
        os.truncate(victim, 0 if harm == "empty" else 100)
    with pytest.raises(Corrupt):
        export_bytes(path, tmp_path / "out")
    assert not [file for file in tmp_path.iterdir() if "out" in file.name]


def test_any_flipped_bit_in_a_pack_or_run_is_never_silent(tmp_path: Path) -> None:
    """Wherever a byte is hurt, an export either says so or, where the byte plays no part in reading, is still right."""
    path, data = filled_store(tmp_path, size=200_000)
    expected = data + bytes(-len(data) % 512)
    harmless = 0
    files = [file for kind in ("packs", "runs") for file in (path / kind).rglob("*") if file.is_file()]
    for file in files:
        original = file.read_bytes()
        file.chmod(0o600)
        step = max(1, len(original) // 150)
        for at in range(0, len(original), step):
            damaged = bytearray(original)
            damaged[at] ^= 1 << (at % 8)
            file.write_bytes(damaged)
            try:
                assert export_bytes(path, tmp_path / "out") == expected, f"{file.name} byte {at}"
                harmless += 1
            except Corrupt:
                pass
        file.write_bytes(original)
    assert export_bytes(path, tmp_path / "out") == expected
    # A pack's own header and table are only read when an index is rebuilt; nearly everything else matters.
    assert harmless < 60
