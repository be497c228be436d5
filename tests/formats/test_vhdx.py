"""VHDX images: those of qemu compared with what qemu reads, and those that no tool would write."""

from __future__ import annotations

import random
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.errors import InvalidImage, SourceError, Unsupported
from dataplane.extent import Extent, ExtentKind, unpack_batch
from dataplane.formats.crc32c import crc32c
from dataplane.formats.vhdx import open_vhdx
from dataplane.readers.file import FileReader
from tests.formats import vhdx_writer as writer
from tests.formats.direct import MIB, content_at, damage, read_or_refused, refused, same_root, sample_disk
from tests.formats.helpers import qemu_content, qemu_io, run, without_holes
from tests.formats.vhdx_writer import BAT, METADATA, Vhdx, header, sealed

OTHER = "11111111-2222-3333-4444-555555555555"


def opened(tmp_path: Path, image: Vhdx) -> tuple[bytes, list[Extent]]:
    return content_at(open_vhdx, image.write(tmp_path / "disk.vhdx"))


def small(**changes: Any) -> Vhdx:
    return Vhdx(**{"size": 5 * MIB, "blocks": {3: b"a" * MIB, 0: b"b" * MIB, 1: writer.ZERO}, **changes})


def reject(tmp_path: Path, image: Vhdx, kind: type[SourceError], words: str) -> None:
    refused(open_vhdx, image.write(tmp_path / "disk.vhdx"), kind, words)


@given(st.binary(max_size=300))
def test_checksum_matches_the_one_bit_by_bit(data: bytes) -> None:
    assert crc32c(data) == writer.checksum(data)
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (9 * MIB + 512, "subformat=dynamic"),
        (36 * MIB, "subformat=dynamic,block_size=1M"),
        (36 * MIB, "subformat=fixed"),
        (36 * MIB, "subformat=dynamic,block_state_zero=off"),
        (20 * MIB, "subformat=dynamic,block_size=256M"),
    ],
)
def test_converted_disk_is_what_qemu_reads(tmp_path: Path, size: int, options: str) -> None:
    disk = sample_disk(size)
    (tmp_path / "raw").write_bytes(disk)
    path = tmp_path / "disk.vhdx"
    run("qemu-img", "convert", "-f", "raw", "-O", "vhdx", "-o", options, tmp_path / "raw", path)
    qemu_io(path, "write -P 7 8M 4k", form="vhdx")
    content, _ = content_at(open_vhdx, path)
    assert content == qemu_content(path, form="vhdx")
    assert content[: 8 * MIB] == disk[: 8 * MIB]
    same_root(tmp_path, open_vhdx, path, content)


def test_huge_sparse_image_is_quick(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    run("qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=1M", path, "8T")
    qemu_io(path, "write -P 1 7T 64k", form="vhdx")
    with open_vhdx(FileReader(path)) as source:
        assert source.virtual_size == 8 << 40
        data = [row for batch in source.extents() for row in unpack_batch(batch)]
    (written,) = [row for row in data if row[2] == ExtentKind.DATA]  # the rest of the block is a hole of the file
    assert written[0] == 7 << 40
    assert 65536 <= written[1] <= MIB
    assert len(data) < 1000


def test_every_state_of_a_block(tmp_path: Path) -> None:
    blocks: dict[int, bytes | int] = {
        0: b"x" * MIB,
        1: writer.ZERO,
        2: writer.UNDEFINED,
        3: writer.UNMAPPED | 7 << 20,  # an offset that no longer counts
        4: writer.DRAFT_UNMAPPED,
        6: b"y" * MIB,
    }
    content, extents = opened(tmp_path, Vhdx(7 * MIB, blocks))
    assert content == b"x" * MIB + bytes(5 * MIB) + b"y" * MIB == qemu_content(tmp_path / "disk.vhdx", "vhdx")
    kinds = [ExtentKind.DATA, ExtentKind.ZERO, ExtentKind.HOLE, ExtentKind.HOLE, ExtentKind.DATA]
    assert [row.kind for row in extents] == kinds  # two holes, because a batch ends between them


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("block_size", [32 * MIB, 256 * MIB])
def test_entries_for_sector_bitmaps_are_skipped(tmp_path: Path, block_size: int, sector_size: int) -> None:
    ratio = (1 << 23) * sector_size // block_size
    picked = (0, ratio - 1, ratio, 2 * ratio, 2 * ratio + 1)
    entries: dict[int, bytes | int] = {block: block_size * (number + 1) | 6 for number, block in enumerate(picked)}
    path = Vhdx((2 * ratio + 2) * block_size, entries, block_size=block_size, sector_size=sector_size).write(
        tmp_path / "disk.vhdx"
    )
    with path.open("r+b") as file:
        file.truncate(block_size * 6)
    with open_vhdx(without_holes(path)) as source:
        rows = [row for batch in source.extents() for row in unpack_batch(batch)]
    told = sum(row[1] for row in rows if row[2] == ExtentKind.DATA)
    assert told == 5 * block_size
    for number, block in enumerate(picked):
        at = next(row for row in rows if row[0] <= block * block_size < row[0] + row[1])
        assert at[5] + block * block_size - at[0] == block_size * (number + 1)


def test_header_with_the_higher_sequence_counts(tmp_path: Path) -> None:
    dirty = header(5, log=b"l" * 16)
    for headers in [(dirty, header(6)), (header(6), dirty), (header(1), bytes(4096)), (b"\1" * 4096, header(1))]:
        content, _ = opened(tmp_path, small(headers=headers))
        assert content[:MIB] == b"b" * MIB
    for headers in [(dirty, header(4)), (header(4), dirty), (dirty, dirty), (dirty, bytes(4096))]:
        reject(tmp_path, small(headers=headers), Unsupported, "is dirty")


def test_second_region_table_stands_in(tmp_path: Path) -> None:
    good = small()._regions()
    content, _ = opened(tmp_path, small(region_tables=(good[:-1] + b"x", good)))
    assert content[:MIB] == b"b" * MIB
    reject(tmp_path, small(region_tables=(good[:-1] + b"x",) * 2), InvalidImage, "two region tables")


def test_optional_and_user_metadata_is_skipped(tmp_path: Path) -> None:
    more = [(OTHER, b"anything", 1), (OTHER, b"again", 0), (writer.DISK_SIZE, b"mine", 1)]
    regions = [(OTHER, 0, 0, 0), (METADATA, MIB, MIB, 1), (BAT, 2 * MIB, MIB, 1)]
    content, _ = opened(tmp_path, small(more_items=more, regions=regions))
    assert content[:MIB] == b"b" * MIB


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"headers": (bytes(4096), bytes(4096))}, InvalidImage, "neither of its two headers"),
        ({"headers": (header(1), header(1, version=2))}, InvalidImage, "same sequence number"),
        ({"headers": (header(1), header(2, version=2))}, Unsupported, "version 2"),
        ({"headers": (header(1), header(2, log_version=1))}, Unsupported, "log of version 1"),
        ({"flags": 2}, Unsupported, "differencing VHDX"),
        ({"more_items": [(writer.PARENT_LOCATOR, b"", 4)]}, Unsupported, "differencing VHDX"),
        ({"more_items": [(OTHER, b"x", 4)]}, Unsupported, f"metadata {OTHER} is required"),
        ({"more_items": [(writer.LOGICAL, bytes(4), 4)]}, InvalidImage, "listed twice"),
        ({"items": {writer.LOGICAL: b""}}, InvalidImage, "lacks the logical sector size"),
        ({"items": {writer.DISK_SIZE: b""}}, InvalidImage, "lacks the virtual disk size"),
        ({"items": {writer.DISK_SIZE: b"123"}}, InvalidImage, "metadata of 3 bytes"),
        ({"item_offset": MIB - 18}, InvalidImage, "metadata of 4 bytes at 1048574"),
        ({"item_offset": 100}, InvalidImage, "metadata of 8 bytes at 100"),
        ({"regions": [(BAT, 2 * MIB, MIB, 1)]}, InvalidImage, "lacks the block allocation table or the metadata"),
        ({"regions": [(BAT, 2 * MIB, MIB, 1)] * 2}, InvalidImage, "listed twice"),
        ({"regions": [(OTHER, 2 * MIB, MIB, 1)]}, Unsupported, f"region {OTHER} is required"),
        ({"regions": [(BAT, 2 * MIB + 512, MIB, 1)]}, InvalidImage, "whole MiB"),
        ({"regions": [(BAT, 2 * MIB, 0, 1)]}, InvalidImage, "whole MiB"),
        ({"regions": [(BAT, 0, MIB, 1)]}, InvalidImage, "whole MiB"),
        ({"regions": [(BAT, 1 << 40, MIB, 1)]}, InvalidImage, "cut short"),
        ({"regions": [(METADATA, MIB, 2 * MIB, 1), (BAT, 2 * MIB, MIB, 1)]}, InvalidImage, "overlap"),
        ({"block_size": 3 * MIB}, InvalidImage, "a block of 3145728 bytes"),
        ({"block_size": 512 * MIB, "blocks": {}}, InvalidImage, "a block of"),
        ({"sector_size": 1024}, InvalidImage, "logical sector of 1024"),
        ({"size": 5 * MIB + 100}, InvalidImage, "whole number of sectors"),
        ({"size": 1 << 50}, InvalidImage, "more than 64 TiB"),
        ({"size": 1 << 40}, InvalidImage, "a block allocation table of 1048576 bytes"),
        ({"blocks": {0: writer.PARTIAL}}, InvalidImage, "block for offset 0 has a state"),
        ({"blocks": {1: writer.RESERVED}}, InvalidImage, "block for offset 1048576 has a state"),
        ({"blocks": {1: writer.ZERO | 8}}, InvalidImage, "reserved bits"),
        ({"blocks": {1: 6}}, InvalidImage, "header section"),
        ({"blocks": {1: 3 << 20 | 6}}, InvalidImage, "not in the file"),
        ({"blocks": {1: (1 << 64) - (1 << 20) | 6}}, InvalidImage, "not in the file"),
        ({"blocks": {0: b"x", **dict.fromkeys(range(1, 5), 3 << 20 | 6)}}, InvalidImage, "some overlap"),
    ],
)
def test_image_is_refused(tmp_path: Path, changes: dict[str, Any], kind: type[SourceError], words: str) -> None:
    reject(tmp_path, small(**changes), kind, words)


def test_metadata_table_is_checked(tmp_path: Path) -> None:
    path = small().write(tmp_path / "disk.vhdx")
    for at, change in [(MIB, b"m3tadata"), (MIB + 10, b"\xff\xff")]:
        data = bytearray(path.read_bytes())
        data[at : at + len(change)] = change
        other = tmp_path / "other"
        other.write_bytes(data)
        refused(open_vhdx, other, InvalidImage, "no metadata table")


def test_image_cut_short_is_never_zeros(tmp_path: Path) -> None:
    path = small().write(tmp_path / "disk.vhdx")
    whole = path.read_bytes()
    for length in (0, 8, 70000, 200_000, MIB, 2 * MIB, 3 * MIB - 1, 3 * MIB, 4 * MIB - 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(open_vhdx, path, InvalidImage, "cut short")


def test_empty_disk(tmp_path: Path) -> None:
    assert opened(tmp_path, Vhdx(0)) == (b"", [])


@settings(max_examples=120, deadline=3000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_image_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Tables are damaged first and then sealed, or the file is damaged as it is."""
    image = small(size=3 * MIB, blocks={0: b"b" * 512, 2: writer.ZERO})
    draw = random.Random(data.draw(st.integers(0, 1 << 32)))
    if draw.random() < 0.5:
        regions = bytearray(image._regions())
        for _ in range(draw.randrange(3)):
            regions[draw.randrange(8, 84)] = draw.choice([0, 1, 255, draw.randrange(256)])
        whole = sealed_quickly(bytes(regions))
        image.region_tables = (whole, whole)
    base = bytearray(image.write(tmp_path / "base").read_bytes())
    for _ in range(draw.randrange(4)):
        place = draw.choice([MIB + draw.randrange(240), MIB + 65536 + draw.randrange(60), 2 * MIB + draw.randrange(32)])
        base[place] = draw.choice([0, 1, 2, 6, 7, 255, draw.randrange(256)])
    read_or_refused(open_vhdx, tmp_path / "disk", bytes(base), data.draw(damage(300_000)))


def sealed_quickly(table: bytes) -> bytes:
    """Return ``table`` with its checksum, computed by the function that another test compares with the slow one."""
    return table[:4] + crc32c(table[:4] + bytes(4) + table[8:]).to_bytes(4, "little") + table[8:]


def test_identifiers_are_stored_the_way_the_format_says(tmp_path: Path) -> None:
    regions = sealed(small()._regions())
    assert uuid.UUID(BAT).bytes_le in regions
    assert regions == small()._regions()
