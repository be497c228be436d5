"""VHD images: those of qemu compared with what qemu reads, and those that no tool would write."""

from __future__ import annotations

import os
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.errors import InvalidImage, SourceError, Unsupported
from dataplane.extent import Extent, ExtentKind, unpack_batch
from dataplane.formats.vhd import open_vhd
from dataplane.readers.file import FileReader
from tests.formats.direct import MIB, content_at, damage, read_or_refused, refused, same_root, sample_disk
from tests.formats.helpers import qemu_content, qemu_io, run, without_holes
from tests.formats.vhd_writer import Vhd, sealed
from tests.oracles.maps import merged

BLOCK = 2 * MIB


def put(tmp_path: Path, image: Vhd | bytes) -> Path:
    path = tmp_path / "disk.vhd"
    path.write_bytes(image if isinstance(image, bytes) else image.write())
    return path


def opened(tmp_path: Path, image: Vhd | bytes) -> tuple[bytes, list[Extent]]:
    return content_at(open_vhd, put(tmp_path, image))


def reject(tmp_path: Path, image: Vhd | bytes, kind: type[SourceError], words: str) -> None:
    refused(open_vhd, put(tmp_path, image), kind, words)


def small(**changes: Any) -> Vhd:
    return Vhd(**{"size": 5 * MIB, "blocks": {0: b"a" * BLOCK, 2: b"b" * BLOCK}, **changes})


def fixed(**changes: Any) -> Vhd:
    return Vhd(**{"size": MIB, "blocks": {0: b"f" * MIB}, "kind": 2, **changes})


@pytest.mark.parametrize("size", [9 * MIB + 512, 36 * MIB])
@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("force_size", ["on", "off"])
def test_converted_disk_is_what_qemu_reads(tmp_path: Path, subformat: str, force_size: str, size: int) -> None:
    disk = sample_disk(size)
    (tmp_path / "raw").write_bytes(disk)
    path = tmp_path / "disk.vhd"
    options = f"subformat={subformat},force_size={force_size}"
    run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", options, tmp_path / "raw", path)
    content, extents = content_at(open_vhd, path)
    assert content == qemu_content(path, form="vpc")
    assert content[:size] == disk
    assert force_size == "off" or len(content) == size
    assert ExtentKind.HOLE in {extent.kind for extent in extents}
    same_root(tmp_path, open_vhd, path, content)


def test_scribbled_image(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    run("qemu-img", "create", "-q", "-f", "vpc", "-o", "force_size=on", path, "64M")
    qemu_io(path, "write -P 1 3M 200k", "write -P 2 512 512", "write -P 3 63M 1M", form="vpc")
    content, _ = content_at(open_vhd, path)
    assert content == qemu_content(path, form="vpc")


def test_huge_sparse_image_is_quick(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    run("qemu-img", "create", "-q", "-f", "vpc", "-o", "force_size=on", path, "2000G")
    qemu_io(path, "write -P 1 1999G 64k", form="vpc")
    with open_vhd(FileReader(path)) as source:
        assert sum(len(batch) for batch in source.extents()) < 40


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_random_bitmaps_are_honoured(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    block = 512 << draw.randrange(0, 13)
    sectors = block // 512
    count = draw.randrange(1, 6 + 40 // sectors)
    size = count * block - 512 * draw.randrange(sectors)
    expected = bytearray(count * block)
    image = Vhd(size, block_size=block)
    for index in draw.sample(range(count), draw.randrange(count + 1)):
        content = draw.randbytes(block)
        bits = np.array([draw.random() < draw.choice([0, 0.1, 0.9, 1]) for _ in range(sectors)], dtype=np.uint8)
        image.blocks[index] = content
        image.bitmaps[index] = np.packbits(bits).tobytes()
        for sector in np.flatnonzero(bits).tolist():
            at = sector * 512
            expected[index * block + at : index * block + at + 512] = content[at : at + 512]
    content, _ = opened(tmp_path, image)
    assert content == expected[:size]


def test_memory_is_bounded_for_bitmaps_that_merge_nowhere(tmp_path: Path) -> None:
    count, stride = 1024, (BLOCK + 512) // 512
    path = tmp_path / "disk.vhd"
    image = Vhd(count * BLOCK, entry={block: 32 + block * stride for block in range(count)})
    with path.open("wb") as file:
        file.write(image.write()[:-512])
        for block in range(count):
            os.pwrite(file.fileno(), b"\xaa" * 512, (32 + block * stride) * 512)
        os.pwrite(file.fileno(), image.footer(), (32 + count * stride) * 512)
    with open_vhd(without_holes(path)) as source:
        tracemalloc.start()
        rows = sum(len(batch) for batch in source.extents())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert rows == count * 4096
    assert peak < 64 * MIB


def test_sector_that_is_not_stored_is_zero_and_stays_allocated(tmp_path: Path) -> None:
    _, extents = opened(tmp_path, small(bitmaps={0: b"\x7f" + b"\xff" * 511}))
    assert [(row.offset, row.length, row.kind) for row in extents] == [
        (0, 512, ExtentKind.ZERO),
        (512, BLOCK - 512, ExtentKind.DATA),
        (BLOCK, BLOCK, ExtentKind.HOLE),
        (2 * BLOCK, 5 * MIB - 2 * BLOCK, ExtentKind.DATA),
    ]


def test_block_of_many_pieces(tmp_path: Path) -> None:
    block = 2 << 30  # 64 pieces of 32 MiB, bits of 32 pieces at a time
    path = tmp_path / "disk.vhd"
    image = Vhd(block + 512, block_size=block, entry={0: 10, 1: 10 + 1024 + block // 512})
    bitmap = bytearray(512 << 10)
    bitmap[0], bitmap[8191], bitmap[8192], bitmap[-1] = 0x80, 0x01, 0x80, 0x01
    data_at = 5120 + len(bitmap)
    with path.open("wb") as file:
        file.write(image.write()[:-512])
        for at, piece in [
            (5120, bytes(bitmap)),
            (data_at, b"1" * 512),
            (data_at + (32 << 20) - 512, b"2" * 1024),
            (data_at + block - 512, b"3" * 512 + b"\x80"),
            (data_at + block + len(bitmap), b"4" * 512),
            (data_at + 2 * block + len(bitmap), image.footer()),
        ]:
            os.pwrite(file.fileno(), piece, at)
    with open_vhd(FileReader(path)) as source:
        rows = [row for batch in source.extents() for row in unpack_batch(batch)]
    # Batches may end between the pieces of a block.
    data = [(row.offset, row.length) for row in merged(rows) if row.kind == ExtentKind.DATA]
    assert data == [(0, 512), ((32 << 20) - 512, 1024), (block - 512, 512), (block, 512)]


@pytest.mark.parametrize("creator", [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"vpc ", b"qemu", b"vbox", b"vs  "])
@pytest.mark.parametrize("geometry", [(20, 4, 17), (65535, 16, 255)])
def test_size_follows_the_creator_as_in_qemu(tmp_path: Path, creator: bytes, geometry: tuple[int, int, int]) -> None:
    content, _ = opened(tmp_path, fixed(creator=creator, geometry=geometry))
    assert content == qemu_content(tmp_path / "disk.vhd", form="vpc")
    by_geometry = creator in (b"vpc ", b"qemu", b"vbox", b"vs  ") and geometry[0] == 20
    assert len(content) == (20 * 4 * 17 * 512 if by_geometry else MIB)


def test_size_of_an_azure_disk_is_the_one_in_bytes(tmp_path: Path) -> None:
    content, _ = opened(tmp_path, fixed(creator=b"wa\0\0", geometry=(20, 4, 17)))
    assert content == b"f" * MIB


def test_footer_of_511_bytes_is_read(tmp_path: Path) -> None:
    content, _ = opened(tmp_path, fixed().write()[:-1])
    assert content == b"f" * MIB


@pytest.mark.parametrize(
    ("image", "kind", "words"),
    [
        (small(kind=4), Unsupported, "differencing VHD"),
        (small(kind=0), Unsupported, "type 0"),
        (small(version=0x20000), Unsupported, "version 2"),
        (small(dynamic_version=0x20000), Unsupported, "header of version 2"),
        (small(block_size=3 << 19), InvalidImage, "a block of 1572864 bytes"),
        (small(block_size=256, size=512, blocks={}), InvalidImage, "a block of 256 bytes"),
        (small(size=5 * MIB + 1), InvalidImage, "whole number of sectors"),
        (small(size=1 << 60, blocks={}, block_size=2 << 20).footer(), InvalidImage, "virtual size"),
        (small(entries=2), InvalidImage, "2 entries, but the disk takes 3"),
        (small(entries=0xFFFFFFFF), InvalidImage, "the block table of"),
        (small(table_offset=1 << 40), InvalidImage, "the block table of"),
        (small(table_offset=(1 << 64) - 4), InvalidImage, "the block table of"),
        (small(header_offset=1 << 63), InvalidImage, "the dynamic header of"),
        (small(header_offset=0), InvalidImage, "no dynamic header at 0"),
        (small(entry={1: 0xFFFFFFF0}), InvalidImage, "block for offset 2097152 is not in the file"),
        (small(copy=bytes(512)), InvalidImage, "copy of the footer"),
        (small(copy=small(size=4 * MIB).footer()), InvalidImage, "contradict each other"),
        (small(copy=small().footer()[:-1] + b"x"), InvalidImage, "checksum of the footer"),
        (fixed(size=MIB, blocks={0: small().footer()}), InvalidImage, "begins as a dynamic VHD"),
        (fixed(kind=2, creator=b"vpc ", geometry=(100, 16, 17)), InvalidImage, "cut short"),
        (fixed().write()[1:], InvalidImage, "cut short"),
        (fixed().write()[:-2], InvalidImage, "no footer"),
        (fixed().write()[:300], InvalidImage, "no footer"),
        (b"", InvalidImage, "no footer"),
    ],
)
def test_image_is_refused(tmp_path: Path, image: Vhd | bytes, kind: type[SourceError], words: str) -> None:
    reject(tmp_path, image, kind, words)


def test_checksums_are_verified(tmp_path: Path) -> None:
    whole = small().write()
    reject(tmp_path, whole[:600] + b"x" + whole[601:], InvalidImage, "checksum of the dynamic header")
    reject(tmp_path, whole[:-1] + b"x", InvalidImage, "checksum of the footer")


def test_image_cut_short_is_never_zeros(tmp_path: Path) -> None:
    whole = small().write()
    for length in (8, 511, 512, 1024, 1535, 2048, 2560, MIB, len(whole) - 513, len(whole) - 512, len(whole) - 2):
        reject(tmp_path, whole[:length], InvalidImage, "cut short|missing|dynamic header")


def test_blocks_over_one_another_are_refused(tmp_path: Path) -> None:
    image = Vhd(100 * BLOCK, {0: b"a" * BLOCK})
    image.entry = dict.fromkeys(range(100), 4)
    reject(tmp_path, image, InvalidImage, "some overlap")


BASES = [
    Vhd(40 << 10, {0: b"a" * 4096, 3: b"b" * 4096}, {3: b"\x5a"}, block_size=4096).write(),
    fixed(size=64 << 10).write(),
]


@settings(max_examples=400, deadline=3000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=st.sampled_from(BASES), damages=st.one_of(damage(100, "big"), damage(2048, "big")), seal=st.booleans())
def test_damaged_image_is_read_or_refused(
    tmp_path: Path, base: bytes, damages: tuple[list[tuple[int, bytes]], int], seal: bool
) -> None:
    changed = bytearray(base)
    if seal:  # so that damage gets past the checksums
        for at, change in damages[0]:
            changed[at % 2048 : at % 2048 + len(change)] = change
        if base is BASES[0]:
            changed[:512] = sealed(bytes(changed[:512]), 64)
            changed[512:1536] = sealed(bytes(changed[512:1536]), 36)
            changed[-512:] = changed[:512]
        damages = ([], damages[1])
    read_or_refused(open_vhd, tmp_path / "disk", bytes(changed), damages)
