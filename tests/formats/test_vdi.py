"""VDI images: those of qemu compared with what qemu reads, and those that no tool would write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from dataplane.errors import InvalidImage, SourceError, Unsupported
from dataplane.extent import Extent, ExtentKind
from dataplane.formats.vdi import open_vdi
from dataplane.readers.file import FileReader
from tests.formats.direct import MIB, content_at, damage, read_or_refused, refused, same_root, sample_disk
from tests.formats.helpers import qemu_content, qemu_io, run
from tests.formats.vhd_writer import Vdi

ABSENT, ZERO = 0xFFFFFFFF, 0xFFFFFFFE


def put(tmp_path: Path, image: Vdi | bytes) -> Path:
    path = tmp_path / "disk.vdi"
    path.write_bytes(image if isinstance(image, bytes) else image.write())
    return path


def opened(tmp_path: Path, image: Vdi | bytes) -> tuple[bytes, list[Extent]]:
    return content_at(open_vdi, put(tmp_path, image))


def small(**changes: Any) -> Vdi:
    return Vdi(**{"size": 5 * MIB, "blocks": {3: b"a" * MIB, 0: b"b" * MIB, 1: ZERO}, **changes})


@pytest.mark.parametrize("size", [9 * MIB + 512, 36 * MIB])
@pytest.mark.parametrize("static", ["on", "off"])
def test_converted_disk_is_what_qemu_reads(tmp_path: Path, static: str, size: int) -> None:
    disk = sample_disk(size)
    (tmp_path / "raw").write_bytes(disk)
    path = tmp_path / "disk.vdi"
    run("qemu-img", "convert", "-f", "raw", "-O", "vdi", "-o", f"static={static}", tmp_path / "raw", path)
    qemu_io(path, "write -P 7 8M 4k", form="vdi")
    content, extents = content_at(open_vdi, path)
    assert content == qemu_content(path, form="vdi")
    assert (ExtentKind.HOLE in {extent.kind for extent in extents}) == (static == "off")
    same_root(tmp_path, open_vdi, path, content)


def test_huge_sparse_image_is_quick(tmp_path: Path) -> None:
    path = tmp_path / "disk.vdi"
    run("qemu-img", "create", "-q", "-f", "vdi", path, "8T")
    qemu_io(path, "write -P 1 7T 64k", form="vdi")
    with open_vdi(FileReader(path)) as source:
        rows = sum(len(batch) for batch in source.extents())
    assert rows < 300


def test_every_kind_of_block(tmp_path: Path) -> None:
    content, extents = opened(tmp_path, small())
    assert (
        content == b"b" * MIB + bytes(2 * MIB) + b"a" * MIB + bytes(MIB) == qemu_content(tmp_path / "disk.vdi", "vdi")
    )
    kinds = [ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.HOLE, ExtentKind.DATA, ExtentKind.HOLE]
    assert [extent.kind for extent in extents] == kinds


@pytest.mark.parametrize("block", [4096, 65536, 2 * MIB, 8 * MIB])
def test_other_block_sizes(tmp_path: Path, block: int) -> None:
    image = Vdi(3 * block - 512, {2: b"a" * block, 0: b"b" * block}, block_size=block)
    content, _ = opened(tmp_path, image)
    assert content == b"b" * block + bytes(block) + b"a" * (block - 512)


@pytest.mark.parametrize("size", [1, 511, 513, MIB + 1])
def test_size_between_sectors_is_rounded_up_with_zeros(tmp_path: Path, size: int) -> None:
    count = -(-size // MIB)
    content, extents = opened(tmp_path, Vdi(size, dict.fromkeys(range(count), b"a" * MIB)))
    assert content == b"a" * size + bytes(-size % 512)
    assert extents[-1].kind == ExtentKind.ZERO


def test_empty_disk(tmp_path: Path) -> None:
    assert opened(tmp_path, Vdi(0)) == (b"", [])


def test_entries_behind_the_end_of_the_disk_mean_nothing(tmp_path: Path) -> None:
    image = bytearray(small().write())
    image[512 + 20 : 512 + 24] = (77).to_bytes(4, "little")
    content, _ = opened(tmp_path, bytes(image))
    assert content[:MIB] == b"b" * MIB


@pytest.mark.parametrize(
    ("image", "kind", "words"),
    [
        (small(version=0x10000), Unsupported, r"version 1\.0"),
        (small(version=0x20001), Unsupported, r"version 2\.1"),
        (small(kind=3), Unsupported, "an undo VDI"),
        (small(kind=4), Unsupported, "a differencing VDI"),
        (small(kind=0), Unsupported, "type 0"),
        (small(link=b"x" * 16), Unsupported, "linked"),
        (small(parent=b"x" * 16), Unsupported, "linked"),
        (small(sector_size=4096), Unsupported, "sectors of 4096 bytes"),
        (small(extra=16), Unsupported, "16 extra bytes"),
        (small(block_size=3 << 19), InvalidImage, "a block of 1572864 bytes"),
        (Vdi(512, block_size=2048), InvalidImage, "a block of 2048 bytes"),
        (small(count=4), InvalidImage, "4 entries, but the disk takes 5"),
        (small(map_offset=513), InvalidImage, "begins inside a sector"),
        (small(map_offset=1 << 30), InvalidImage, "the block map of"),
        (small(data_offset=4097), InvalidImage, "begins inside a sector"),
        (small(blocks={0: 2, 3: b"a"}), InvalidImage, "block for offset 0 is not in the file"),
        (small(blocks={0: 0xFFFFFFFD}), InvalidImage, "block for offset 0 is not in the file"),
        (small(blocks={0: b"x", 1: 0, 2: 0, 3: 0}), InvalidImage, "some overlap"),
        (small().write()[:300], InvalidImage, "the header of"),
        (small().write()[:520], InvalidImage, "the block map of"),
        (small().write()[:-1], InvalidImage, "block for offset 0 is not in the file"),
        (bytes(4096), InvalidImage, "no magic"),
        (b"", InvalidImage, "the header of"),
    ],
)
def test_image_is_refused(tmp_path: Path, image: Vdi | bytes, kind: type[SourceError], words: str) -> None:
    refused(open_vdi, put(tmp_path, image), kind, words)


@pytest.mark.parametrize(("size", "words"), [(1 << 51, "virtual size"), (1 << 40, "block map of 1073741824 bytes")])
def test_size_beyond_the_bounds_is_refused(tmp_path: Path, size: int, words: str) -> None:
    image = bytearray(Vdi(4096, block_size=4096).write())
    image[0x170:0x178] = size.to_bytes(8, "little")
    image[0x180:0x184] = b"\xff" * 4
    refused(open_vdi, put(tmp_path, bytes(image)), InvalidImage, words)


BASE = Vdi(40 << 10, {5: b"a" * 4096, 1: b"b" * 4096, 2: ZERO}, block_size=4096).write()


@settings(max_examples=300, deadline=3000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damages=damage(600))
def test_damaged_image_is_read_or_refused(tmp_path: Path, damages: tuple[list[tuple[int, bytes]], int]) -> None:
    read_or_refused(open_vdi, tmp_path / "disk", BASE, damages)
