"""Exports to qcow2: qemu-img judges form and content, and we read them back ourselves."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.errors import UsageError
from dataplane.formats.probe import open_source
from dataplane.formats.qcow2_layout import REFCOUNT_MAX, Qcow2Layout
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import import_image
from dataplane.ingest.qcow2_file import Qcow2File
from dataplane.store.store import Store
from tests.disks import KIB, MIB, write_sparse
from tests.export.conftest import MakeStore, add

needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
pytestmark = needs_qemu


def judge(image: Path, raw: Path) -> dict[str, int]:
    """Let qemu-img check the form of an image and compare its content; return what it says of the form."""
    done = subprocess.run(["qemu-img", "check", "--output=json", image], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, image], check=True, capture_output=True)
    found: dict[str, int] = json.loads(done.stdout)
    assert found.get("leaks", 0) == found.get("corruptions", 0) == found["check-errors"] == 0
    assert found["image-end-offset"] == image.stat().st_size
    return found


@pytest.mark.parametrize("chunk_size", [4 * KIB, 64 * KIB, 2 * MIB, 4 * MIB])
@pytest.mark.parametrize("codec", ["zstd:1", "none"])
@pytest.mark.parametrize("compressed", [False, True])
def test_qemu_finds_nothing_wrong(
    make_store: MakeStore, disk: Path, tmp_path: Path, chunk_size: int, codec: str, compressed: bool
) -> None:
    store = make_store(chunk_size, codec)
    target = tmp_path / "out.qcow2"
    export_image(store, "disk", target, format="qcow2", compressed=compressed, verify=True, threads=2)
    found = judge(target, disk)
    assert bool(found.get("compressed-clusters", 0)) == compressed
    # What qemu reads and what we read are the same disk: it comes back to the same root.
    with open_source(target) as source:
        assert import_image(store, source, name="again").root == store.pin("disk").root


@pytest.mark.parametrize("compressed", [False, True])
def test_bytes_do_not_depend_on_the_number_of_threads(store: Store, tmp_path: Path, compressed: bool) -> None:
    made = set()
    for threads in (1, 2, 5):
        target = tmp_path / f"{threads}.qcow2"
        export_image(store, "disk", target, format="qcow2", compressed=compressed, threads=threads)
        made.add(target.read_bytes())
    assert len(made) == 1


def test_compressed_clusters_are_the_frames_of_the_store(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "out.qcow2"
    export_image(store, "disk", target, format="qcow2", compressed=True)
    index, pin = store.index(), store.pin("disk")
    image = target.read_bytes()
    for _, page in store.read_pages(index, store.read_root(index, pin.root, pin.domain)):
        # The last chunk of the disk is cut, and so written anew.
        ids = [page[at : at + 32] for at in range(0, len(page), 32) if any(page[at : at + 32])][:-1]
        assert len(ids) > 20
        for id in ids:
            pack, offset, length, _ = index.require(id)
            assert store.layout.pack(pack).read_bytes()[offset : offset + length] in image


def test_guest_can_write_to_it(store: Store, disk: Path, tmp_path: Path) -> None:
    """qemu-io writes over compressed and plain clusters; the image stays sound, and has what was written."""
    if shutil.which("qemu-io") is None:
        pytest.skip("qemu-io is not installed")
    expected = bytearray(disk.read_bytes())
    writes = [(0, 200 * KIB), (2 * MIB + 512, 64 * KIB), (5 * MIB, 4 * KIB), (12 * MIB, 96 * KIB)]
    for offset, length in writes:
        expected[offset : offset + length] = b"\xaa" * length
    raw = write_sparse(tmp_path / "expected.raw", bytes(expected))
    for compressed in (False, True):
        target = tmp_path / f"{compressed}.qcow2"
        export_image(store, "disk", target, format="qcow2", compressed=compressed)
        commands = [word for offset, length in writes for word in ("-c", f"write -P 0xaa {offset} {length}")]
        subprocess.run(["qemu-io", "-f", "qcow2", *commands, target], check=True, capture_output=True)
        subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, target], check=True)
        subprocess.run(["qemu-img", "check", target], check=True, capture_output=True)


@pytest.mark.parametrize("compressed", [False, True])
def test_disk_of_zeros_has_tables_only(tmp_path: Path, compressed: bool) -> None:
    raw = write_sparse(tmp_path / "zeros.raw", bytes(5 * MIB))
    store = Store.create(tmp_path / "store")
    add(store, raw, "zeros")
    export_image(store, "zeros", tmp_path / "out", format="qcow2", compressed=compressed, verify=True)
    judge(tmp_path / "out", raw)
    assert (tmp_path / "out").stat().st_size == 4 * 64 * KIB  # header, L1 table, refcount block and table


def test_many_l2_tables(tmp_path: Path) -> None:
    """With clusters of 4 KiB an L2 table covers 2 MiB, half a window; some of them are missing."""
    data = bytearray(40 * MIB)
    for at in (*range(0, 9 * MIB, 100 * KIB), 17 * MIB, *range(30 * MIB, 40 * MIB, 3 * MIB)):
        data[at : at + 5000] = b"%7d" % at * 714 + b"xx"
    raw = write_sparse(tmp_path / "disk.raw", bytes(data))
    store = Store.create(tmp_path / "store", chunk_size=4 * KIB)
    add(store, raw, "disk")
    for compressed in (False, True):
        target = tmp_path / f"{compressed}"
        export_image(store, "disk", target, format="qcow2", compressed=compressed, verify=True)
        judge(target, raw)


def test_disk_too_large_for_its_clusters_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="export it as raw"):
        Qcow2Layout(virtual_size=(8 << 40) + 1, cluster_size=4 * KIB)
    Qcow2Layout(virtual_size=8 << 40, cluster_size=4 * KIB)


def test_one_cluster_never_gets_more_references_than_can_be_counted(tmp_path: Path) -> None:
    layout = Qcow2Layout(virtual_size=1 << 40, cluster_size=2 * MIB)
    with (tmp_path / "out").open("w+b") as file:
        made = Qcow2File(file.fileno(), layout, zstd=True)
        count = REFCOUNT_MAX + 100
        offsets = made.place(range(count), [1] * count)
        assert offsets[REFCOUNT_MAX] // (2 * MIB) == offsets[0] // (2 * MIB) + 1
        assert len(set(offsets)) == count
        made.finish()
    done = subprocess.run(["qemu-img", "check", tmp_path / "out"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@settings(max_examples=25)
@given(
    cluster_bits=st.integers(9, 21),
    sizes=st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1)), min_size=1, max_size=120),
)
def test_places_are_counted_right(cluster_bits: int, sizes: list[tuple[int, float]]) -> None:
    """Whatever the lengths, places do not overlap, plain clusters are aligned, and qemu counts as we do."""
    cluster_size = 1 << cluster_bits
    lengths = [max(1, min(cluster_size, round(share * 1.2 * cluster_size))) for _, share in sizes]
    clusters, position = [], 0
    for gap, _ in sizes:
        position += gap
        clusters.append(position)
    layout = Qcow2Layout(virtual_size=(position + 7) * cluster_size, cluster_size=cluster_size)
    with tempfile.NamedTemporaryFile() as file:
        made = Qcow2File(file.fileno(), layout, zstd=True)
        places = sorted(zip(made.place(clusters, lengths), lengths, strict=True))
        made.finish()
        for (offset, length), (after, _) in zip(places, [*places[1:], (1 << 60, 0)], strict=True):
            assert offset + length <= after
            assert length < cluster_size or offset % cluster_size == 0
        done = subprocess.run(["qemu-img", "check", file.name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
