from __future__ import annotations

import os
import random
from array import array
from pathlib import Path

import pytest

from dataplane.byte_reader import ByteReader
from dataplane.errors import InvalidImage
from dataplane.extent import WINDOW_SIZE, Extent, ExtentKind
from dataplane.formats import raw
from dataplane.formats.probe import open_source
from dataplane.formats.raw import RawSource
from dataplane.ingest.importing import import_image
from dataplane.readers.file import FileReader
from dataplane.store.store import Store
from tests.formats.direct import MIB
from tests.formats.helpers import checked_content, content_of, qemu_content
from tests.oracles.extents import checked_extents


class MappedReader(ByteReader):
    """A reader whose data ranges are given; its bytes are 1 there and 0 in holes."""

    name = "mapped"

    def __init__(self, size: int, ranges: list[tuple[int, int]]) -> None:
        self.size = size
        self.ranges = ranges
        self.calls = 0

    def read_at(self, offset: int, length: int) -> bytes:
        content = bytearray(length)
        for start, size in self.ranges:
            first, last = max(start, offset), min(start + size, offset + length)
            if first < last:
                content[first - offset : last - offset] = b"\1" * (last - first)
        return bytes(content)

    def data_ranges(self, offset: int, end: int, limit: int) -> memoryview:
        self.calls += 1
        found = array("q")
        for start, size in self.ranges:
            first, last = max(start, offset), min(start + size, end)
            if first < last:
                found.extend((first, last - first))
            if len(found) == 2 * limit:
                break
        return memoryview(found).cast("B").cast("q", (len(found) // 2, 2)) if found else memoryview(b"")

    def close(self) -> None:
        pass


def opened(tmp_path: Path, content: bytes) -> tuple[bytes, list[Extent]]:
    path = tmp_path / "disk"
    path.write_bytes(content)
    with RawSource(FileReader(path)) as source:
        return checked_content(source)


@pytest.mark.parametrize("size", [1, 511, 512, 513, 1000, 4096, 4097, WINDOW_SIZE - 1, WINDOW_SIZE, WINDOW_SIZE + 1])
def test_part_sector_is_padded_with_zeros(tmp_path: Path, size: int) -> None:
    content = b"x" * size
    disk, extents = opened(tmp_path, content)
    assert disk == content + bytes(-size % 512)
    assert extents[0] == Extent(0, size, ExtentKind.DATA, 0, 0, 0, size)
    if size % 512:
        assert extents[1:] == [Extent(size, -size % 512, ExtentKind.ZERO)]


@pytest.mark.parametrize("size", [1, 1000, MIB - 1, MIB + 1, 5 * MIB + 511])
@pytest.mark.parametrize("tail", ["data", "hole"])
def test_any_size_reads_and_imports_as_in_qemu(tmp_path: Path, size: int, tail: str) -> None:
    """Through the probe and into a store: what qemu-img makes of the file gives the same root."""
    path = tmp_path / "disk"
    path.write_bytes(b"\xeb" + bytes(size - 1) if tail == "hole" else b"\xeb" * size)
    if tail == "hole":
        os.truncate(path, 1)
        os.truncate(path, size)
    judged = qemu_content(path, form="raw")
    content, _ = content_of(path)
    assert content == path.read_bytes() + bytes(-size % 512)
    assert content == judged.ljust(len(content), b"\0")
    (tmp_path / "padded").write_bytes(content)
    with Store.create(tmp_path / "store") as store:
        roots = set()
        for name in ("disk", "padded"):
            with open_source(tmp_path / name) as source:
                assert source.format == "raw"
                roots.add(import_image(store, source, name=name).root)
    assert len(roots) == 1


def test_holes_of_the_file_system(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate((20 << 20) + 100)
        os.pwrite(file.fileno(), b"x" * 8192, 5 << 20)
        os.pwrite(file.fileno(), b"y" * 4096, 12 << 20)
    with RawSource(FileReader(path)) as source:
        disk, extents = checked_content(source)
    assert disk == path.read_bytes() + bytes(412)
    hole, data, zero = ExtentKind.HOLE, ExtentKind.DATA, ExtentKind.ZERO
    assert [extent.kind for extent in extents] == [hole, data, hole, data, hole, zero]


def test_all_hole(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 1 << 40)
    with RawSource(FileReader(path)) as source:
        assert checked_extents(source) == [Extent(0, 1 << 40, ExtentKind.HOLE)]


def test_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match="is empty"):
        opened(tmp_path, b"")


def test_too_large_is_refused() -> None:
    with pytest.raises(InvalidImage, match="at most"):
        RawSource(MappedReader((1 << 50) + 1, []))


def test_many_ranges_come_in_bounded_batches() -> None:
    ranges = [(at, 4096) for at in range(0, 200 << 20, 8192)]
    reader = MappedReader(200 << 20, ranges)
    source = RawSource(reader)
    batches = source.extents()
    next(batches)
    assert reader.calls == 1
    assert len(list(batches)) >= 5
    extents = checked_extents(source)
    assert [(e.source_offset, e.source_length) for e in extents if e.kind == ExtentKind.DATA] == ranges


def test_window_with_too_many_ranges_is_read_whole() -> None:
    reader = MappedReader(3 * WINDOW_SIZE, [(at, 256) for at in range(0, 2 * WINDOW_SIZE, 512)])
    extents = checked_extents(RawSource(reader))
    assert [extent.kind for extent in extents[:2]] == [ExtentKind.DATA, ExtentKind.DATA]
    assert extents[0].length == WINDOW_SIZE


def test_random_maps_cover_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "_RANGES_MAX", 3)
    for seed in range(50):
        draw = random.Random(seed)
        size = draw.randrange(1, 4 * WINDOW_SIZE)
        cuts = sorted({draw.randrange(size) for _ in range(draw.randrange(20))})
        # Ranges that touch are legal too.
        ranges = [
            (cut, draw.choice([end - cut, (end - cut + 1) // 2]))
            for cut, end in zip(cuts, [*cuts, size][1:], strict=True)
        ]
        source = RawSource(MappedReader(size, ranges))
        disk, _ = checked_content(source)
        assert disk.rstrip(b"\0") == source.readers[0].read_at(0, size).rstrip(b"\0")
