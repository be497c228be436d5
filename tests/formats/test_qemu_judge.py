"""Every variant of VMDK, VHD, VHDX, VDI and raw that qemu-img makes: content and map as qemu-img tells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataplane.extent import Extent, ExtentCodec, ExtentKind, unpack_batch
from dataplane.formats.probe import open_source
from dataplane.image_source import ImageSource
from tests.formats.direct import MIB, sample_disk
from tests.formats.helpers import checked_content, qemu_content, qemu_io, run

SIZE = 20 * MIB
EDITS = ("write -P 7 1M 192k", "write -P 8 11M 4k", "write -z 13M 1M", "write -z -u 15M 2M", "write -P 9 19M 512")

TELLS_NOTHING = ("vhdx",)  # qemu has no map of these: to it all is data

VARIANTS = [
    ("vmdk", "subformat=monolithicSparse", True),
    ("vmdk", "subformat=monolithicSparse,adapter_type=lsilogic,hwversion=7", True),
    ("vmdk", "subformat=monolithicSparse,adapter_type=buslogic,zeroed_grain=on", True),
    ("vmdk", "subformat=monolithicSparse,adapter_type=legacyESX,compat6=on,zeroed_grain=on", True),
    ("vmdk", "subformat=monolithicFlat", True),
    ("vmdk", "subformat=monolithicFlat,adapter_type=lsilogic", True),
    ("vmdk", "subformat=twoGbMaxExtentSparse", True),
    ("vmdk", "subformat=twoGbMaxExtentSparse,zeroed_grain=on", True),
    ("vmdk", "subformat=twoGbMaxExtentFlat", True),
    ("vmdk", "subformat=streamOptimized", False),
    ("vmdk", "subformat=streamOptimized,adapter_type=lsilogic,hwversion=10", False),
    ("vpc", "subformat=dynamic", True),
    ("vpc", "subformat=dynamic,force_size=on", True),
    ("vpc", "subformat=fixed", True),
    ("vpc", "subformat=fixed,force_size=on", True),
    ("vhdx", "subformat=dynamic,block_size=1M", True),
    ("vhdx", "subformat=dynamic,block_size=8M,block_state_zero=off", True),
    ("vhdx", "subformat=dynamic,block_size=256M,log_size=4M", True),
    ("vhdx", "subformat=fixed", True),
    ("vdi", "static=off", True),
    ("vdi", "static=on", True),
    ("raw", "preallocation=off", True),
    ("raw", "preallocation=falloc", True),
    ("raw", "preallocation=full", True),
]


@pytest.mark.parametrize(("form", "options", "writable"), VARIANTS, ids=[f"{f}-{o}" for f, o, _ in VARIANTS])
def test_content_and_map_are_those_of_qemu(tmp_path: Path, form: str, options: str, writable: bool) -> None:
    disk = sample_disk(SIZE, seed=3)
    (tmp_path / "plain").write_bytes(disk)
    path = tmp_path / f"disk.{form}"
    run("qemu-img", "convert", "-f", "raw", "-O", form, "-o", options, tmp_path / "plain", path)
    agree(path, form)
    if writable:
        qemu_io(path, *EDITS, form=form)
        assert b"\x07" * 4096 in agree(path, form)


@pytest.mark.parametrize(("form", "options"), sorted({(form, options) for form, options, _ in VARIANTS}))
def test_image_that_nothing_was_written_to(tmp_path: Path, form: str, options: str) -> None:
    path = tmp_path / f"disk.{form}"
    run("qemu-img", "create", "-q", "-f", form, "-o", options, path, str(SIZE))
    assert not any(agree(path, form))


@pytest.mark.parametrize("form", ["vmdk", "vdi", "vpc", "vhdx", "qcow2"])
@pytest.mark.parametrize("size", [512, 4096, 65536 + 512, 3 * MIB + 1536])
def test_small_and_odd_sizes(tmp_path: Path, form: str, size: int) -> None:
    path = tmp_path / f"disk.{form}"
    options = ["-o", "force_size=on"] if form == "vpc" else []
    run("qemu-img", "create", "-q", "-f", form, *options, path, str(size))
    qemu_io(path, f"write -P 5 {size - 512} 512", form=form)
    assert agree(path, form)[size - 512 : size] == b"\x05" * 512


@pytest.mark.slow
def test_split_disk_of_more_than_two_files(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", path, "5G")
    qemu_io(path, "write -P 1 1G 1M", "write -P 2 2147418112 128k", "write -P 3 5368643584 64k", form="vmdk")
    with open_source(path, extent_dir=tmp_path) as source:
        assert len(source.readers) == 4
        extents = [row for batch in source.extents() for row in unpack_batch(batch)]
        compare_map(path, "vmdk", source, extents)


def agree(path: Path, form: str) -> bytes:
    """Assert that an image reads as qemu reads it, and return its content."""
    descriptor = form == "vmdk" and path.read_bytes()[:4] != b"KDMV"
    with open_source(path, extent_dir=path.parent if descriptor else None) as source:
        content, extents = checked_content(source)
        assert content == qemu_content(path, form)
        compare_map(path, form, source, extents)
    return content


def compare_map(path: Path, form: str, source: ImageSource, extents: list[Extent]) -> None:
    """Assert that every range that ``qemu-img map`` tells has the same kind and place here."""
    told: list[dict[str, Any]] = json.loads(run("qemu-img", "map", "-f", form, "--output=json", path))
    assert sum(entry["length"] for entry in told) == source.virtual_size
    for entry in told:
        start, end = entry["start"], entry["start"] + entry["length"]
        for extent in extents:
            if extent.offset >= end or extent.offset + extent.length <= start:
                continue
            if entry["zero"] or not entry["data"]:
                # A hole of the file below the image is data to the format and zeros to the file system; short ones are
                # data here as well.
                short = entry["data"] and entry["length"] < 65536
                assert extent.kind != ExtentKind.DATA or short, entry
                continue
            # What qemu would read here is zeros by our account, which the comparison of content has borne out: holes of
            # the file, and sectors of a VHD whose bit is clear.
            known_better = form in TELLS_NOTHING or extent.kind == ExtentKind.ZERO
            assert extent.kind == ExtentKind.DATA or known_better, entry
            if extent.kind == ExtentKind.DATA and "offset" in entry and not entry.get("compressed"):
                assert extent.codec == ExtentCodec.RAW
                assert extent.source_offset - extent.offset == entry["offset"] - start, entry
