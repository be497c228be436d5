"""Imports: the same content gives the same root whatever it came in, and the sizes are what a recount finds."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from dataplane.engine.codec import Encoder
from dataplane.engine.scan import blake3
from dataplane.errors import AlreadyExists, Cancelled, SourceUnavailable, UsageError
from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import ImportResult, import_image, prepare_import
from dataplane.ingest.progress import Progress
from dataplane.store import format as fmt
from dataplane.store.statistics import image_sizes, store_sizes
from dataplane.store.store import Store
from tests.disks import KIB, MIB, convert, disk_bytes, write_sparse


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk of 12 MiB and a part of a chunk."""
    return write_sparse(tmp_path_factory.mktemp("disk") / "disk.raw", disk_bytes(12 * MIB + 5 * KIB))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def bring(store: Store, path: Path, name: str, threads: int | None = None) -> ImportResult:
    with open_source(path) as source:
        return import_image(store, source, name=name, threads=threads)


def recount(data: bytes, store: Store, domain: str = "") -> dict[str, int]:
    """Return the sizes of architecture's definitions, counted chunk by chunk in plain Python."""
    key, encoder = store.domain_key(domain), Encoder(store.codec.level)
    stored: dict[bytes, int] = {}
    chunks = data_size = 0
    for at in range(0, len(data), store.chunk_size):
        chunk = data[at : at + store.chunk_size]
        if not any(chunk):
            continue
        chunks += 1
        data_size += len(chunk)
        padded = chunk.ljust(store.chunk_size, b"\0")
        stored[blake3(padded, key)] = len(encoder.encode_bytes(padded))
    windows = [data[at : at + 4 * MIB] for at in range(0, len(data), 4 * MIB)]
    return {
        "virtual_size": len(data),
        "data_size": data_size,
        "storage_size": sum(stored.values()),
        "allocated_size": 4 * MIB * sum(any(window) for window in windows),
        "chunks": chunks,
        "distinct_chunks": len(stored),
    }


@pytest.mark.parametrize("chunk_size", [4 * KIB, 64 * KIB, 512 * KIB, 4 * MIB])
@pytest.mark.parametrize("codec", ["zstd:1", "none"])
def test_sizes_equal_a_recount(tmp_path: Path, disk: Path, chunk_size: int, codec: str) -> None:
    with Store.create(tmp_path / "s", chunk_size=chunk_size, codec=codec) as store:
        sizes = bring(store, disk, "a").sizes
        expected = recount(disk.read_bytes(), store)
    assert {name: getattr(sizes, name) for name in expected} == expected


def test_sizes_equal_what_the_manifest_and_index_say(store: Store, disk: Path) -> None:
    result = bring(store, disk, "a")
    index = store.index()
    ids = set()
    for _, page in store.read_pages(index, store.read_root(index, result.root, "")):
        ids |= {page[at : at + 32] for at in range(0, len(page), 32)}
    lengths = [index.require(id)[2] for id in ids - {fmt.ZERO_ID}]
    assert (len(lengths), sum(lengths)) == (result.sizes.distinct_chunks, result.sizes.storage_size)


def test_root_is_the_same_in_every_container(store: Store, disk: Path, tmp_path: Path) -> None:
    containers = {
        "plain": convert(disk, tmp_path / "plain.qcow2", "-O", "qcow2"),
        "zlib": convert(disk, tmp_path / "zlib.qcow2", "-O", "qcow2", "-c"),
        "zstd": convert(disk, tmp_path / "zstd.qcow2", "-O", "qcow2", "-c", "-o", "compression_type=zstd"),
        "small": convert(disk, tmp_path / "small.qcow2", "-O", "qcow2", "-o", "cluster_size=512"),
        "large": convert(disk, tmp_path / "large.qcow2", "-O", "qcow2", "-c", "-o", "cluster_size=2M"),
        "old": convert(disk, tmp_path / "old.qcow2", "-O", "qcow2", "-o", "compat=0.10"),
    }
    first = bring(store, disk, "raw")
    assert first.bytes_written > 0
    for name, path in containers.items():
        result = bring(store, path, name)
        assert (result.root, result.sizes) == (first.root, first.sizes), name
        assert result.bytes_written == 0, name
    assert store_sizes(store).live_size == first.sizes.storage_size


def test_root_does_not_depend_on_threads(store: Store, disk: Path) -> None:
    results = [bring(store, disk, f"t{threads}", threads) for threads in (1, 2, 5)]
    assert len({result.root for result in results}) == 1
    assert len({result.sizes for result in results}) == 1


def test_storage_size_does_not_depend_on_what_the_store_holds(tmp_path: Path, disk: Path) -> None:
    other = write_sparse(tmp_path / "other.raw", disk.read_bytes()[: 6 * MIB] + disk_bytes(3 * MIB, seed=9))
    with Store.create(tmp_path / "one") as one, Store.create(tmp_path / "two") as two:
        alone = bring(one, disk, "disk").sizes
        bring(two, other, "other")
        assert bring(two, disk, "disk").sizes == alone


def test_unique_and_shared_sizes_are_what_removal_frees(tmp_path: Path, disk: Path) -> None:
    other = write_sparse(tmp_path / "other.raw", disk.read_bytes()[: 6 * MIB] + disk_bytes(3 * MIB, seed=9))
    with Store.create(tmp_path / "s") as store:
        first, second = bring(store, disk, "a"), bring(store, other, "b")
        together = store_sizes(store).live_size
        sizes = image_sizes(store, "b")
        assert sizes.unique_size + sizes.shared_size == second.sizes.storage_size
        assert 0 < sizes.shared_size < second.sizes.storage_size
        store.unpin("b")
        assert together - store_sizes(store).live_size == sizes.unique_size
        assert store_sizes(store).live_size == first.sizes.storage_size == image_sizes(store, "a").unique_size


def test_domains_share_nothing(store: Store, disk: Path) -> None:
    with open_source(disk) as source:
        import_image(store, source, name="a", domain="folder-a")
    with open_source(disk) as source:
        second = import_image(store, source, name="b", domain="folder-b")
    assert second.bytes_written > second.sizes.storage_size
    assert image_sizes(store, "b").shared_size == 0


def test_name_taken_is_refused_before_work(store: Store, disk: Path) -> None:
    bring(store, disk, "a")
    with pytest.raises(AlreadyExists, match="'a' is already"):
        bring(store, disk, "a")


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "\x7f"])
def test_name_that_cannot_be_is_refused(store: Store, disk: Path, name: str) -> None:
    with pytest.raises(UsageError):
        bring(store, disk, name)


def files_of(store: Store) -> set[str]:
    """Return every pack, run and temporary file of a store."""
    folders = (store.layout.packs, store.layout.runs, store.layout.temporary)
    return {str(path) for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_import_that_is_not_pinned_leaves_nothing(store: Store, disk: Path) -> None:
    with open_source(disk) as source, prepare_import(store, source) as prepared:
        assert prepared.bytes_written > 0
        assert files_of(store)
    assert files_of(store) == set()


def test_pin_that_is_rolled_back_leaves_nothing(store: Store, disk: Path) -> None:
    def pin_and_fail() -> None:
        with (
            open_source(disk) as source,
            prepare_import(store, source) as prepared,
            store.ledger.transaction() as connection,
        ):
            prepared.pin("a", connection=connection)
            raise RuntimeError("rolled back")

    with pytest.raises(RuntimeError, match="rolled back"):
        pin_and_fail()
    assert files_of(store) == set()
    assert store.pins() == []


def test_error_after_the_commit_keeps_the_image(store: Store, disk: Path, tmp_path: Path) -> None:
    def commit_and_fail() -> None:
        with open_source(disk) as source, prepare_import(store, source) as prepared:
            prepared.pin("a")
            raise RuntimeError("too late")

    with pytest.raises(RuntimeError, match="too late"):
        commit_and_fail()
    export_image(store, "a", tmp_path / "out")
    assert (tmp_path / "out").read_bytes().startswith(disk.read_bytes())


def test_cancelled_import_leaves_nothing(store: Store, disk: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with open_source(disk) as source, pytest.raises(Cancelled):
        prepare_import(store, source, cancelled=cancelled)
    assert files_of(store) == set()


def test_source_that_changes_meanwhile_is_refused(store: Store, disk: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.raw"
    victim.write_bytes(disk.read_bytes())
    with open_source(victim) as source:
        victim.write_bytes(disk.read_bytes()[::-1])
        with pytest.raises(SourceUnavailable, match="changed"):
            import_image(store, source, name="a")
    assert files_of(store) == set()


def test_progress_adds_up(store: Store, disk: Path) -> None:
    progress = Progress()
    with open_source(disk) as source:
        result = import_image(store, source, name="a", progress=progress)
    snapshot = progress.snapshot()
    assert snapshot.stage == "done"
    assert snapshot.position_bytes == snapshot.total_bytes == result.sizes.virtual_size
    chunk_size = store.chunk_size
    assert snapshot.new_bytes == result.sizes.distinct_chunks * chunk_size
    assert snapshot.new_bytes + snapshot.duplicate_bytes == result.sizes.chunks * chunk_size
    assert snapshot.written_bytes > result.sizes.storage_size


def test_image_of_zeros_costs_nothing_but_its_root(store: Store, tmp_path: Path) -> None:
    empty = write_sparse(tmp_path / "zeros.raw", bytes(MIB))
    result = bring(store, empty, "zeros")
    assert (result.sizes.storage_size, result.sizes.chunks, result.sizes.allocated_size) == (0, 0, 0)
    export_image(store, "zeros", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == bytes(MIB)


def test_export_equals_the_source(store: Store, disk: Path, tmp_path: Path) -> None:
    bring(store, disk, "a")
    for name in ("sparse", "full"):
        export_image(store, "a", tmp_path / name, sparse=name == "sparse")
        assert hashlib.sha256((tmp_path / name).read_bytes()).digest() == hashlib.sha256(disk.read_bytes()).digest()
    assert (tmp_path / "sparse").stat().st_blocks < (tmp_path / "full").stat().st_blocks


def test_export_over_a_file_needs_force(store: Store, disk: Path, tmp_path: Path) -> None:
    bring(store, disk, "a")
    target = tmp_path / "out"
    target.write_text("precious")
    with pytest.raises(AlreadyExists, match="--force"):
        export_image(store, "a", target)
    assert target.read_text() == "precious"
    with pytest.raises(UsageError, match="not a regular file"):
        export_image(store, "a", tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        export_image(store, "a", tmp_path / "none" / "out")
