"""Every chunk size from one reading, beside chunks counted one by one; and sampled digests beside all of them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from dataplane import Store, import_image, open_source
from dataplane.analysis import block_log
from dataplane.analysis.block_log import BLOCKS, BlockLog, joined, shifted, survey
from dataplane.analysis.counting import SLICE_KEYS, ChunkCounts, count_keys, image_bits, make_keys
from dataplane.analysis.levels import Level, SampledLevels, exact_levels
from dataplane.analysis.tuning import CHUNK_SIZES
from dataplane.errors import Cancelled
from dataplane.image_source import ImageSource
from dataplane.ingest.progress import Progress
from dataplane.limits import KIB, MIB
from tests.disks import convert, disk_bytes, write_sparse
from tests.oracles import census

Disks = list[bytes]


@pytest.fixture(scope="module")
def disks() -> Disks:
    first = disk_bytes(17 * MIB, 1, 32 * KIB)
    return [first, first[: 5 * MIB] + disk_bytes(4 * MIB, 2) + first[9 * MIB : -1024], disk_bytes(99_840, 3)]


@pytest.fixture(scope="module")
def paths(disks: Disks, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("disks")
    found = []
    for number, disk in enumerate(disks):
        found.append(write_sparse(folder / f"{number}.raw", disk))
    found[1] = convert(found[1], folder / "1.qcow2", "-O", "qcow2", "-c")
    return found


def log_of(source: ImageSource) -> BlockLog:
    return joined(list(survey(source, threads=2, progress=Progress(), cancelled=None)))


def logs_of(paths: list[Path]) -> tuple[list[BlockLog], list[int]]:
    logs, sizes = [], []
    for path in paths:
        with open_source(str(path)) as source:
            logs.append(log_of(source))
            sizes.append(source.virtual_size)
    return logs, sizes


def check(counts: ChunkCounts, expected: census.Census) -> None:
    assert counts.chunks.tolist() == expected.chunks
    assert counts.distinct.tolist() == expected.distinct
    assert counts.only_here.tolist() == expected.only_here
    assert counts.total_distinct == len(expected.total)
    assert counts.shared.tolist() == expected.shared
    buckets = [0] * len(counts.references)
    for times in expected.times.values():
        buckets[(times - 1).bit_length()] += 1
    assert counts.references.tolist() == buckets


def test_levels_match_oracle(disks: Disks, paths: list[Path]) -> None:
    logs, sizes = logs_of(paths)
    for level in exact_levels(logs, sizes, CHUNK_SIZES, 512, pick_bytes=16 * MIB):
        expected = census.count(disks, level.chunk_size)
        check(level.counts, expected)
        assert [one.chunks for one in level.occupancies] == expected.chunks
        assert [one.data_size for one in level.occupancies] == expected.data_size
        assert [one.pages for one in level.occupancies] == expected.pages


def test_picks_are_distinct_chunks_each_where_met_first(disks: Disks, paths: list[Path]) -> None:
    logs, sizes = logs_of(paths)
    for seed in (0, 1 << 63, (1 << 64) - 1):
        for level in exact_levels(logs, sizes, (64 * KIB, MIB), 40, pick_bytes=1 << 40, seed=seed):
            chunks = []
            for number, offsets in enumerate(level.picks):
                assert offsets.tolist() == sorted(set(offsets.tolist()))
                for offset in offsets.tolist():
                    chunk = disks[number][offset : offset + level.chunk_size].ljust(level.chunk_size, b"\0")
                    earlier = [census.chunks_of(disk, level.chunk_size) for disk in disks[:number]]
                    assert not any(chunk in others for others in earlier)
                    chunks.append(chunk)
            total = census.count(disks, level.chunk_size).total
            assert len(chunks) == len(set(chunks)) == min(40, len(total))
            assert set(chunks) <= total


def test_levels_equal_imports(paths: list[Path], tmp_path: Path) -> None:
    logs, sizes = logs_of(paths)
    for level in exact_levels(logs, sizes, (4 * KIB, 64 * KIB, 4 * MIB), 32, pick_bytes=0):
        with Store.create(tmp_path / str(level.chunk_size), chunk_size=level.chunk_size, codec="none") as store:
            for number, path in enumerate(paths):
                with open_source(str(path)) as source:
                    found = import_image(store, source, name=f"{number}").sizes
                assert found.chunks == level.occupancies[number].chunks
                assert found.data_size == level.occupancies[number].data_size
                assert found.distinct_chunks == level.counts.distinct[number]
                assert found.storage_size == level.counts.distinct[number] * level.chunk_size


def test_all_doors_give_one_log(disks: Disks, tmp_path: Path) -> None:
    """A file natively, a stored image through a feed, and qcow2 (compressed) are the same disk."""
    disk = disks[0]
    raw = write_sparse(tmp_path / "disk.raw", disk)
    with open_source(str(raw)) as source:
        expected = log_of(source)
    assert len(expected) == 5
    with open_source(str(convert(raw, tmp_path / "disk.qcow2", "-O", "qcow2", "-c"))) as source:
        same(log_of(source), expected)
    with Store.create(tmp_path / "store") as store, open_source(str(raw)) as source:
        import_image(store, source, name="disk")
        from dataplane.store.stored_image import StoredImage

        pin = store.pin("disk")
        with StoredImage(store, pin.root, pin.domain) as image:
            same(log_of(image), expected)


def same(log: BlockLog, expected: BlockLog) -> None:
    assert log.offsets.tolist() == expected.offsets.tolist()
    data, wanted = log.digests, expected.digests
    assert np.array_equal(np.where(data > 1, data, 0), np.where(wanted > 1, wanted, 0))  # holes and zeros may differ


def test_slices_tear_no_row_apart(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are of 4 MiB, loads of one, and slices of an odd number of loads end anywhere."""
    with open_source(str(paths[0])) as source:
        whole = log_of(source)
    monkeypatch.setattr(block_log, "SLICE_WINDOWS", 1)
    for load_size in (MIB // 4, MIB, 4 * MIB):
        monkeypatch.setattr(block_log, "LOAD_SIZE", load_size)
        with open_source(str(paths[0])) as source:
            slices = list(survey(source, threads=2, progress=Progress(), cancelled=None))
        assert len(slices) > 1
        offsets = np.concatenate([part.offsets for part in slices])
        assert len(set(offsets.tolist())) == len(offsets)
        log = joined(slices)
        assert log.offsets.tolist() == whole.offsets.tolist()
        assert np.array_equal(log.digests, whole.digests)


def test_cancelled_survey_keeps_what_it_yielded(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * MIB)
    cancelled = threading.Event()
    cancelled.set()
    with open_source(str(path)) as source, pytest.raises(Cancelled):
        list(survey(source, threads=1, progress=Progress(), cancelled=cancelled))


@pytest.mark.parametrize("blocks", [0, 1, 7, 512, 1023])
def test_shifted_log_is_that_of_the_disk_without_its_first_blocks(blocks: int, tmp_path: Path) -> None:
    disk = disk_bytes(13 * MIB, 5)[: 9 * MIB] + bytes(20 * MIB) + disk_bytes(5 * MIB, 6)
    logs, _ = logs_of([write_sparse(tmp_path / "a", disk), write_sparse(tmp_path / "b", disk[blocks * 4096 :])])
    moved, expected = shifted(logs[0], blocks), logs[1]
    full = {int(offset): row for offset, row in zip(moved.offsets, moved.digests, strict=True) if (row > 1).any()}
    assert sorted(full) == expected.offsets.tolist()
    for offset, row in zip(expected.offsets.tolist(), expected.digests, strict=True):
        assert np.array_equal(np.maximum(full[offset], 1), np.maximum(row, 1))


def test_keys_are_counted_alike_however_they_are_sliced() -> None:
    chance = np.random.default_rng(1)
    values = chance.integers(2, 1 << 17, (4, SLICE_KEYS // BLOCKS, BLOCKS), dtype=np.uint64) * np.uint64(1 << 40)
    values[1, :9] = (1 << 64) - 1  # the last digest there is, in more than one slice's worth of company
    counts = count_keys(make_keys(list(values), image_bits(4)), 4)
    sets = [set(level.reshape(-1).tolist()) for level in values]
    assert counts.distinct.tolist() == [len(found) for found in sets]
    assert counts.total_distinct == len(set().union(*sets))
    assert counts.shared.tolist() == [[len(left & right) for right in sets] for left in sets]
    assert counts.chunks.tolist() == [SLICE_KEYS] * 4


def sampled(logs: list[BlockLog], sizes: list[int], rate: int, entries_max: int = 1 << 20) -> tuple[list[Level], int]:
    levels = SampledLevels(len(logs), (4 * KIB, 64 * KIB), rate, entries_max)
    for number, (log, size) in enumerate(zip(logs, sizes, strict=True)):
        for at in range(len(log)):  # a window at a time: slices do not matter
            part = BlockLog(offsets=log.offsets[at : at + 1], digests=log.digests[at : at + 1])
            levels.add(number, part, size)
    return list(levels.levels(64, 1 << 30)), levels.rate


def test_sampled_levels_with_rate_one_are_exact(disks: Disks, paths: list[Path]) -> None:
    logs, sizes = logs_of(paths)
    found, _ = sampled(logs, sizes, 1)
    for level in found:
        check(level.counts, census.count(disks, level.chunk_size))
        assert level.distinct.is_exact


def test_sampled_levels_are_unbiased_and_their_intervals_hold() -> None:
    """Many logs of random digests, some of which repeat: the mean is right, and about 95 % of the intervals."""
    chance = np.random.default_rng(7)
    trials, hits, total = 400, 0, 0.0
    for _ in range(trials):
        values = chance.integers(2, 1 << 63, BLOCKS * 2, dtype=np.uint64)
        values[: BLOCKS // 2] = values[BLOCKS // 2 : BLOCKS]
        log = BlockLog(offsets=np.array([0, 4 * MIB]), digests=values.reshape(2, BLOCKS))
        level = sampled([log], [8 * MIB], 4)[0][0]
        hits += level.distinct.low <= 1536 <= level.distinct.high
        total += level.distinct.value
        assert level.counts.chunks.tolist() == [2048]
    assert abs(total / trials / 1536 - 1) < 0.01
    assert 0.92 <= hits / trials <= 0.985


def test_sampled_levels_keep_fewer_when_memory_is_short(paths: list[Path]) -> None:
    logs, sizes = logs_of(paths)
    exact = {level.chunk_size: level.counts.total_distinct for level in sampled(logs, sizes, 1)[0]}
    found, rate = sampled(logs, sizes, 1, entries_max=600)
    assert rate > 1
    for level in found:
        assert not level.distinct.is_exact
        assert level.distinct.low <= exact[level.chunk_size] <= level.distinct.high
        picked = sum(map(len, level.picks))
        assert 0 < picked <= 64
