"""Differences of manifests and the matrix of a store, beside disks compared byte by byte and chunks counted in sets."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from dataplane import Store, import_image, open_source
from dataplane.analysis.differing import compare
from dataplane.analysis.sharing import sharing
from dataplane.errors import NotFound, UsageError
from dataplane.limits import KIB, MIB
from dataplane.store.statistics import image_sizes
from tests.disks import disk_bytes, write_sparse
from tests.oracles import census

SIZE = 4 * KIB


def add(store: Store, folder: Path, name: str, disk: bytes, domain: str = "") -> None:
    with open_source(str(write_sparse(folder / name, disk))) as source:
        import_image(store, source, name=name, domain=domain)


def edited(disk: bytes, seed: int, end: int) -> bytes:
    """Return the disk with some chunks rewritten, zeroed and filled, cut or grown to `end`."""
    chance = random.Random(seed)
    content = bytearray(disk.ljust(end, b"\0")[:end])
    for _ in range(40):
        at = chance.randrange(end // SIZE) * SIZE + chance.randrange(SIZE // 2)
        length = chance.randrange(1, SIZE)
        content[at : at + length] = bytes(length) if chance.random() < 0.4 else chance.randbytes(length)
    return bytes(content[:end])


def brute(left: bytes, right: bytes) -> tuple[list[tuple[int, int]], dict[str, int]]:
    end = max(len(left), len(right))
    zero = bytes(SIZE)
    ranges: list[tuple[int, int]] = []
    sums = {"written": 0, "added": 0, "zeroed": 0}
    for at in range(0, end, SIZE):
        was, now = left[at : at + SIZE].ljust(SIZE, b"\0"), right[at : at + SIZE].ljust(SIZE, b"\0")
        if was == now:
            continue
        length = min(SIZE, end - at)
        sums["added" if was == zero else "zeroed" if now == zero else "written"] += length
        if ranges and sum(ranges[-1]) == at:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + length)
        else:
            ranges.append((at, length))
    return ranges, sums


@pytest.mark.parametrize("end", [9 * MIB, 9 * MIB - 512, 6 * MIB + 1024, 30 * MIB])
def test_difference_matches_bytes_compared(end: int, tmp_path: Path) -> None:
    left = disk_bytes(9 * MIB, 3)
    right = edited(left, end, end)
    with Store.create(tmp_path / "store", chunk_size=SIZE) as store:
        add(store, tmp_path, "left", left)
        add(store, tmp_path, "right", right)
        for before, after, was, now in (("left", "right", left, right), ("right", "left", right, left)):
            found = compare(store, before, after)
            ranges, sums = brute(was, now)
            assert list(found.ranges) == ranges
            assert (found.written_size, found.added_size, found.zeroed_size) == tuple(sums.values())
            assert found.changed_size == sum(sums.values()) == sum(length for _, length in ranges)
        same = compare(store, "left", "left")
    assert (same.ranges, same.changed_size, same.pages_read) == ((), 0, 0)


def test_difference_reads_only_pages_that_differ(tmp_path: Path) -> None:
    """One byte in one of sixteen pages: two pages are read, one of each image."""
    left = random.Random(1).randbytes(64 * MIB)
    right = bytearray(left)
    right[30 * MIB] ^= 1
    with Store.create(tmp_path / "store", chunk_size=SIZE, codec="none") as store:
        add(store, tmp_path, "left", left)
        add(store, tmp_path, "right", bytes(right))
        found = compare(store, "left", "right")
    assert (found.pages_read, found.ranges) == (2, ((30 * MIB, SIZE),))


def test_images_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    with Store.create(tmp_path / "store") as store:
        add(store, tmp_path, "one", b"x" * MIB)
        add(store, tmp_path, "two", b"x" * MIB, domain="another")
        with pytest.raises(UsageError, match="domains"):
            compare(store, "one", "two")
        with pytest.raises(NotFound):
            compare(store, "one", "three")
        assert sharing(store).shared[0, 1] == 0


def test_matrix_matches_sets_of_chunks(tmp_path: Path) -> None:
    first = disk_bytes(4 * MIB, 1)
    disks = {
        "a": first,
        "b": first[: 2 * MIB] + disk_bytes(2 * MIB, 7),
        "c": disk_bytes(3 * MIB, 7),
        "d": bytes(MIB),
        "e": first,
    }
    with Store.create(tmp_path / "store", chunk_size=SIZE, codec="none") as store:
        for name, disk in disks.items():
            add(store, tmp_path, name, disk)
        found = sharing(store)
        sizes = {name: image_sizes(store, name) for name in disks}
    expected = census.count(list(disks.values()), SIZE).shared
    assert found.names == tuple(disks)
    assert found.shared.tolist() == [[count * SIZE for count in row] for row in expected]
    containment = found.containment()
    assert containment[0, 4] == 1.0
    assert not containment[3].any()
    assert containment[1, 0] == pytest.approx(expected[1][0] / expected[1][1])
    for number, one in enumerate(sizes.values()):
        assert found.shared[number, number] == one.unique_size + one.shared_size


def test_matrix_counts_stored_bytes(tmp_path: Path) -> None:
    with Store.create(tmp_path / "store", chunk_size=SIZE, codec="zstd:1") as store:
        add(store, tmp_path, "a", disk_bytes(MIB, 1))
        add(store, tmp_path, "b", disk_bytes(MIB, 1))
        found = sharing(store)
        assert np.unique(found.shared).tolist() == [store.pin("a").storage_size]
    with Store.create(tmp_path / "empty") as store:
        assert sharing(store).shared.shape == (0, 0)
