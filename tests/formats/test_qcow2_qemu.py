"""qcow2 images written by qemu, read here, compared with what qemu reads."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from dataplane.extent import Extent, ExtentCodec, ExtentKind
from dataplane.formats.probe import open_source
from tests.formats.helpers import content_of, convert, create, qemu_content, qemu_io, qemu_map, run
from tests.oracles.extents import checked_extents

CLUSTER_SIZES = [512 << step for step in range(13)]
MIB = 1 << 20


def kinds(extents: list[Extent]) -> set[int]:
    return {extent.kind for extent in extents}


def compare(path: Path) -> list[Extent]:
    """Assert that an image reads as qemu reads it, content and allocation, and return its extents."""
    content, extents = content_of(path)
    assert content == qemu_content(path)
    compare_map(path, extents)
    return extents


def compare_map(path: Path, extents: list[Extent]) -> None:
    """Assert that every range that ``qemu-img map`` tells has the same kind and place here."""
    for told in qemu_map(path):
        start, end = told["start"], told["start"] + told["length"]
        for extent in extents:
            if extent.offset >= end or extent.offset + extent.length <= start:
                continue
            if told["data"] and extent.kind == ExtentKind.ZERO:
                continue  # a hole of the file: that it reads as zeros is borne out by the comparison of content
            if told["data"]:
                assert extent.kind == ExtentKind.DATA
                if "offset" in told:
                    assert extent.codec == ExtentCodec.RAW
                    assert extent.source_offset - extent.offset == told["offset"] - start
            else:
                assert extent.kind == (ExtentKind.ZERO if told["present"] else ExtentKind.HOLE)


def scribble(path: Path, size: int, seed: int = 1) -> None:
    """Write data of many lengths all over the image, and zero some of it again, kept allocated or not."""
    draw = random.Random(seed)
    commands = []
    for _ in range(12):
        at = draw.randrange(size // 512) * 512
        length = min(draw.choice([512, 4096, 65536, 300 * 1024]), size - at)
        commands.append(f"write -P {draw.randrange(1, 256)} {at} {length}")
    for how in ("-z", "-z -u", "-z"):
        at = draw.randrange(size // 4096) * 4096
        commands.append(f"write {how} {at} {min(256 * 1024, size - at)}")
    qemu_io(path, *commands)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("cluster_size", CLUSTER_SIZES)
def test_scribbled_image_every_cluster_size(tmp_path: Path, cluster_size: int, compat: str) -> None:
    path = create(tmp_path / "disk", 9 * MIB + 512, cluster_size=cluster_size, compat=compat)
    scribble(path, 9 * MIB + 512, seed=cluster_size)
    compare(path)


@pytest.mark.parametrize("cluster_size", CLUSTER_SIZES)
@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_compressed_image_every_cluster_size(tmp_path: Path, cluster_size: int, compression: str) -> None:
    raw = tmp_path / "raw"
    draw = random.Random(5)
    text = b"".join(draw.choice([b"alpha ", b"beta ", b"gamma ", b"\0" * 7]) for _ in range(200_000))
    raw.write_bytes(text[: 900 * 1024] + bytes(3 * MIB) + draw.randbytes(300 * 1024) + text[: 5 * 512])
    options = f"cluster_size={cluster_size},compression_type={compression}"
    path = convert(raw, tmp_path / "disk", "-c", "-o", options, form="raw")
    extents = compare(path)
    codec = {"zlib": ExtentCodec.DEFLATE, "zstd": ExtentCodec.ZSTD}[compression]
    packed = [extent for extent in extents if extent.codec]
    assert packed
    assert {extent.codec for extent in packed} == {codec}
    assert {extent.decoded_length for extent in packed} == {cluster_size}


def test_compressed_and_written_over(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"hello world " * 500_000)
    path = convert(raw, tmp_path / "disk", "-c", form="raw")
    qemu_io(path, "write -P 7 1M 200k", "write -z 2M 128k", "discard 3M 64k")
    assert {extent.codec for extent in compare(path)} == {ExtentCodec.RAW, ExtentCodec.DEFLATE}


@pytest.mark.parametrize(
    "size", [512, 1024, 65536, 65536 + 512, 4 * MIB, 4 * MIB - 512, 4 * MIB + 512, 12 * MIB + 65536]
)
def test_odd_virtual_sizes(tmp_path: Path, size: int) -> None:
    path = create(tmp_path / "disk", size)
    qemu_io(path, f"write -P 9 {size - 512} 512", "write -P 8 0 512")
    compare(path)


@pytest.mark.parametrize("mode", ["off", "metadata", "falloc", "full"])
def test_preallocation(tmp_path: Path, mode: str) -> None:
    path = create(tmp_path / "disk", 6 * MIB, preallocation=mode)
    compare(path)
    scribble(path, 6 * MIB)
    compare(path)


def test_lazy_refcounts_left_dirty(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", 6 * MIB, lazy_refcounts="on")
    scribble(path, 6 * MIB)
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), (1).to_bytes(8, "big"), 72)
    compare(path)


def test_zero_clusters_kept_and_given_back(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", 8 * MIB)
    qemu_io(path, "write -P 1 0 4M", "write -z 1M 1M", "write -z -u 3M 512k", "write -z 6M 1M", "discard 0 64k")
    extents = compare(path)
    assert kinds(extents) == {ExtentKind.HOLE, ExtentKind.ZERO, ExtentKind.DATA}


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 32, 64])
def test_refcount_widths(tmp_path: Path, bits: int) -> None:
    path = create(tmp_path / "disk", 2 * MIB, refcount_bits=bits)
    scribble(path, 2 * MIB)
    compare(path)


def test_internal_snapshot_reads_the_active_disk(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", 4 * MIB)
    qemu_io(path, "write -P 1 0 1M")
    run("qemu-img", "snapshot", "-c", "before", path)
    qemu_io(path, "write -P 2 512k 1M")
    compare(path)


def test_bitmaps_and_other_extensions_are_skipped(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", 4 * MIB)
    run("qemu-img", "bitmap", "--add", path, "changes")
    qemu_io(path, "write -P 1 0 1M")
    compare(path)


@pytest.mark.parametrize(("size", "cluster_size"), [("8T", 65536), ("256T", MIB), ("64G", 512)])
def test_huge_sparse_image_takes_milliseconds(tmp_path: Path, size: str, cluster_size: int) -> None:
    path = create(tmp_path / "disk", size, cluster_size=cluster_size)
    qemu_io(path, "write -P 1 33G 64k", "write -P 2 60G 1M")
    best_s = 1.0
    for _ in range(3):
        started = time.perf_counter()
        with open_source(path) as source:
            list(source.extents())
        best_s = min(best_s, time.perf_counter() - started)
    assert best_s < 0.2
    with open_source(path) as source:
        assert sum(extent.length for extent in checked_extents(source) if extent.kind == ExtentKind.DATA) <= 4 * MIB


def test_neighbouring_clusters_are_one_extent(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"x" * 32 * MIB)
    path = convert(raw, tmp_path / "disk", form="raw")
    _, extents = content_of(path)
    assert len([extent for extent in extents if extent.kind == ExtentKind.DATA]) <= 2


def test_first_batch_comes_before_the_last_table_is_read(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", "64G")
    qemu_io(path, *[f"write -P 1 {at}G 64k" for at in range(0, 64, 2)])
    with open_source(path) as source:
        reader = source.readers[0]
        batches = source.extents()
        next(batches)
        os.truncate(path, 4 << 16)
        with pytest.raises(Exception, match="shorter"):
            list(batches)
        assert reader.size > 4 << 16
