"""VMDK images written by qemu, read here, compared with what qemu reads."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dataplane.extent import ExtentCodec, ExtentKind, unpack_batch
from dataplane.formats.vmdk import open_vmdk
from dataplane.readers.file import FileReader
from tests.formats.direct import MIB, content_at, same_root, sample_disk
from tests.formats.helpers import qemu_content, qemu_io, run, without_holes
from tests.oracles.extents import checked_extents

SUBFORMATS = ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"]


def made(tmp_path: Path, disk: bytes, *options: str) -> Path:
    (tmp_path / "raw").write_bytes(disk)
    path = tmp_path / "disk.vmdk"
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", ",".join(options), tmp_path / "raw", path)
    return path


@pytest.mark.parametrize("size", [9 * MIB + 512, 36 * MIB, 40 * MIB + 65536 + 1024])
@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_converted_disk_every_subformat(tmp_path: Path, subformat: str, size: int) -> None:
    disk = sample_disk(size, seed=size)
    path = made(tmp_path, disk, f"subformat={subformat}")
    content, extents = content_at(open_vmdk, path, extent_dir=tmp_path)
    assert content == disk
    packed = [extent for extent in extents if extent.codec == ExtentCodec.ZLIB]
    assert bool(packed) == (subformat == "streamOptimized")
    assert sum(extent.length for extent in extents if extent.kind == ExtentKind.DATA) < size // 2


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_import_gives_the_root_of_the_raw_disk(tmp_path: Path, subformat: str) -> None:
    disk = sample_disk(11 * MIB + 512)
    path = made(tmp_path, disk, f"subformat={subformat}")
    same_root(tmp_path, open_vmdk, path, disk, extent_dir=tmp_path)


@pytest.mark.parametrize("option", ["zeroed_grain=off", "zeroed_grain=on", "compat6=on", "adapter_type=lsilogic"])
def test_scribbled_image(tmp_path: Path, option: str) -> None:
    path = made(tmp_path, sample_disk(36 * MIB), "subformat=monolithicSparse", option)
    writes = ["write -P 1 35M 200k", "write -P 2 512 512", "write -z 4M 1M", "write -z 33M 64k"]
    qemu_io(path, *writes, form="vmdk")
    content, extents = content_at(open_vmdk, path)
    assert content == qemu_content(path, form="vmdk")
    kinds = {extent.kind for extent in extents}
    assert (ExtentKind.ZERO in kinds) == (option == "zeroed_grain=on")


@pytest.mark.parametrize("subformat", ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_disk_of_several_files(tmp_path: Path, subformat: str) -> None:
    path = tmp_path / "disk.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", path, "5G")
    qemu_io(path, "write -P 5 2G 64k", "write -P 6 5119M 1M", "write -P 7 2146430976 8192", form="vmdk")
    with open_vmdk(FileReader(path), extent_dir=tmp_path) as source:
        assert source.virtual_size == 5 << 30
        assert len(source.readers) == 4
        data = [extent for extent in checked_extents(source) if extent.kind == ExtentKind.DATA]
        assert {extent.reader for extent in data} == {1, 2, 3}
        for place, byte in [(2 << 30, 5), (5119 * MIB + 5, 6), (2146430976, 7), (2146430976 + 8191, 7)]:
            extent = next(row for row in data if row.offset <= place < row.offset + row.length)
            at = extent.source_offset + place - extent.offset
            assert source.readers[extent.reader].read_at(at, 1) == bytes([byte])


def test_huge_sparse_image_takes_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", path, "2T")
    qemu_io(path, "write -P 1 33G 64k", "write -P 2 1T 1M", form="vmdk")
    best_s = 9.0
    for _ in range(3):
        started = time.perf_counter()
        with open_vmdk(FileReader(path)) as source:
            data = [row for batch in source.extents() for row in unpack_batch(batch) if row.kind == ExtentKind.DATA]
        best_s = min(best_s, time.perf_counter() - started)
    assert [row.length for row in data] == [65536, MIB]
    # qemu makes every grain table, 128 MiB of them in holes of the file.
    assert best_s < 1


def test_neighbouring_grains_are_one_extent(tmp_path: Path) -> None:
    path = made(tmp_path, b"x" * 16 * MIB, "subformat=monolithicSparse")
    _, extents = content_at(open_vmdk, path)
    assert len(extents) <= 2


def test_first_batch_comes_before_the_last_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", path, "64G")
    qemu_io(path, "write -P 1 0 64k", "write -P 1 63G 64k", form="vmdk")
    with open_vmdk(without_holes(path)) as source:
        batches = source.extents()
        next(batches)
        os.truncate(path, 1 << 20)
        with pytest.raises(Exception, match="shorter"):
            list(batches)
