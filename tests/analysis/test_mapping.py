"""Maps of disks beside their chunks looked at one by one, and ext4 beside what its own tools say."""

from __future__ import annotations

import random
import re
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.inputs import write_partition_table
from dataplane import open_source
from dataplane.analysis.labels import partitions
from dataplane.analysis.logical import read_ranges
from dataplane.analysis.mapping import Content, map_disk
from dataplane.errors import UsageError
from dataplane.limits import KIB, MIB
from tests.disks import convert, disk_bytes, write_sparse
from tests.oracles import census

SIZE = 16 * KIB
PARTITION = MIB


@pytest.fixture(scope="module")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with an MBR and an ext4 partition, from which a file of 6 MiB was removed again."""
    folder = tmp_path_factory.mktemp("ext4")
    disk, tree = folder / "disk", folder / "tree"
    tree.mkdir()
    chance = random.Random(1)
    (tree / "kept").write_bytes(chance.randbytes(3 * MIB))
    (tree / "gone").write_bytes(chance.randbytes(6 * MIB))
    write_partition_table(disk, 300 * MIB)
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "system", "-E", f"offset={PARTITION},nodiscard"]
    subprocess.run([*command, "-d", tree, disk, str(299 * MIB // 4096)], check=True, capture_output=True)
    command = ["debugfs", "-w", "-R", "rm gone", f"{disk}?offset={PARTITION}"]
    subprocess.run(command, check=True, capture_output=True)
    return disk


def contents(disk: bytes, other: bytes, size: int) -> list[Content]:
    """Return what each chunk is, holes counted as zeros."""
    chunks = census.chunks_of(disk, size)
    times, others = Counter(chunks), set(census.chunks_of(other, size))
    found = []
    for chunk in chunks:
        if chunk == bytes(size):
            found.append(Content.ZERO)
        elif chunk in others:
            found.append(Content.SHARED)
        else:
            found.append(Content.DUPLICATE if times[chunk] > 1 else Content.UNIQUE)
    return found


@pytest.mark.parametrize("cells", [1, 7, 256, 4000])
def test_map_matches_oracle(cells: int, tmp_path: Path) -> None:
    disk = disk_bytes(9 * MIB - 512, 1, 8 * KIB)
    other = disk_bytes(2 * MIB, 8) + disk[3 * MIB : 5 * MIB]
    with (
        open_source(str(write_sparse(tmp_path / "disk", disk))) as source,
        open_source(str(write_sparse(tmp_path / "other", other))) as beside,
        open_source(str(write_sparse(tmp_path / "none", bytes(MIB)))) as nothing,
    ):
        found = map_disk(source, [nothing, beside], chunk_size=SIZE, cells=cells)
    expected = np.zeros((len(found.sizes), len(Content)), dtype=np.int64)
    for number, content in enumerate(contents(disk, other, SIZE)):
        expected[number * SIZE // found.cell_size, content] += min(SIZE, len(disk) - number * SIZE)
    assert found.cell_size % SIZE == 0
    assert len(found.sizes) <= cells
    assert np.array_equal(found.sizes[:, Content.UNIQUE :], expected[:, Content.UNIQUE :])
    zeros = found.sizes[:, Content.HOLE] + found.sizes[:, Content.ZERO]
    assert np.array_equal(zeros, expected[:, Content.ZERO])
    assert np.array_equal(found.partner >= 0, expected[:, Content.SHARED] > 0)
    assert set(found.partner.tolist()) <= {-1, 1}
    data = found.sizes[:, Content.UNIQUE :].sum(axis=1) > 0
    assert np.array_equal(~np.isnan(found.compressed), data)
    assert ((found.compressed[data] > 0) & (found.compressed[data] <= 1)).all()


def test_holes_are_told_from_zeros(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.write(bytes(2 * MIB))  # written zeros
        file.truncate(8 * MIB)  # and a hole
        file.seek(6 * MIB)
        file.write(b"x" * MIB)
    with open_source(str(path)) as source:
        found = map_disk(source, chunk_size=SIZE, cells=8).sizes.tolist()
    assert found == [[0, MIB, 0, 0, 0]] * 2 + [[MIB, 0, 0, 0, 0]] * 4 + [[0, 0, 0, MIB, 0]] + [[MIB, 0, 0, 0, 0]]
    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "8M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -z 1M 3M", image], check=True, capture_output=True)
    with open_source(str(image)) as source:
        found = map_disk(source, chunk_size=SIZE, cells=8).sizes.tolist()
    assert found == [[MIB, 0, 0, 0, 0]] + [[0, MIB, 0, 0, 0]] * 3 + [[MIB, 0, 0, 0, 0]] * 4


def test_partitions_and_file_systems_have_labels(ext4: Path, tmp_path: Path) -> None:
    for path in (ext4, convert(ext4, tmp_path / "disk.qcow2", "-O", "qcow2", "-c")):
        with open_source(str(path)) as source:
            table, found = partitions(source)
        assert table == "dos"
        assert [(one.number, one.offset, one.length, one.filesystem, one.label) for one in found] == [
            (1, PARTITION, 299 * MIB, "ext4", "system")
        ]


def test_disk_without_anything_known_is_one_range(tmp_path: Path) -> None:
    for content in (b"x" * MIB, b"x" * 100):
        path = tmp_path / "disk"
        path.write_bytes(content)
        with open_source(str(path)) as source:
            table, found = partitions(source)
            assert table == ""
            assert [(one.number, one.filesystem) for one in found] == [(0, "")]


def test_junk_in_free_blocks_is_counted(ext4: Path) -> None:
    """What dumpe2fs calls free, and of that what is not zero: the file that was removed."""
    listing = subprocess.run(
        ["dumpe2fs", "-o", "blocksize=4096", f"{ext4}?offset={PARTITION}"], capture_output=True, text=True, check=True
    ).stdout
    free = [
        (int(first), int(last or first))
        for line in re.findall(r"^  Free blocks: (.*)$", listing, re.M)
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", line)
    ]
    disk = ext4.read_bytes()
    junk = 0
    for first, last in free:
        for block in range(first, last + 1):
            at = PARTITION + block * 4096
            junk += 4096 * (disk[at : at + 4096].count(0) != 4096)
    with open_source(str(ext4)) as source:
        found = map_disk(source).junk
    assert [one.partition for one in found] == [1]
    assert found[0].junk_size == junk >= 6 * MIB
    assert found[0].free_size == pytest.approx(4096 * sum(last - first + 1 for first, last in free), rel=0.01)


@pytest.mark.parametrize("seed", range(6))
def test_hostile_superblock_is_survived(seed: int, ext4: Path, tmp_path: Path) -> None:
    """Numbers of chance in the superblock and the group descriptors: whatever comes out, nothing breaks."""
    chance = random.Random(seed)
    disk = bytearray(ext4.read_bytes())
    for _ in range(8):
        at = PARTITION + chance.choice(
            [1024 + chance.choice([4, 20, 24, 32, 96, 206, 254, 336]), 4096 + chance.randrange(192)]
        )
        disk[at : at + 4] = chance.choice([bytes(4), b"\xff" * 4, chance.randbytes(4)])
    path = write_sparse(tmp_path / "disk", bytes(disk))
    with open_source(str(path)) as source:
        for one in map_disk(source, cells=4).junk:
            assert 0 <= one.junk_size <= one.free_size <= 299 * MIB


def test_ranges_are_read_from_any_format(tmp_path: Path) -> None:
    disk = disk_bytes(9 * MIB, 2)
    raw = write_sparse(tmp_path / "disk", disk)
    wanted = [(0, 10), (4 * MIB - 5, 10), (MIB, 3 * MIB + 1), (9 * MIB - 7, 100), (20 * MIB, 5), (4 * MIB, 4 * MIB)]
    for path in (raw, convert(raw, tmp_path / "disk.qcow2", "-O", "qcow2", "-c")):
        with open_source(str(path)) as source:
            assert read_ranges(source, wanted) == [disk[at : at + length] for at, length in wanted]
            assert read_ranges(source, []) == []


def test_arguments_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * MIB)
    with open_source(str(path)) as source:
        for cells, chunk_size in ((0, SIZE), (1 << 20, SIZE), (1, 5000)):
            with pytest.raises(UsageError):
                map_disk(source, cells=cells, chunk_size=chunk_size)
