"""Measuring with a sample beside measuring everything."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from dataplane import measure, open_source
from dataplane.analysis.block_log import joined, survey
from dataplane.analysis.estimate import estimate_sum
from dataplane.analysis.levels import exact_levels
from dataplane.analysis.remote_sample import Seen, estimate
from dataplane.analysis.sampled_measuring import measure_sampled
from dataplane.analysis.trial import Trials
from dataplane.engine.codec import CodecProfile
from dataplane.errors import UsageError
from dataplane.ingest.progress import Progress
from dataplane.limits import KIB, MIB
from tests.disks import convert, disk_bytes, write_sparse
from tests.readers.http_server import serving


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparse(tmp_path_factory.mktemp("disk") / "disk.raw", disk_bytes(40 * MIB, 9, 8 * KIB))


def test_everything_sampled_is_exact(disk: Path, tmp_path: Path) -> None:
    other = write_sparse(tmp_path / "other.raw", disk_bytes(2 * MIB, 5) + disk_bytes(40 * MIB, 9, 8 * KIB)[: 3 * MIB])
    for codec in ("zstd:1", "none"):
        with open_source(str(disk)) as first, open_source(str(other)) as second:
            exact = measure([first, second], chunk_size=16 * KIB, codec=codec)
            found = measure_sampled([first, second], share=1.0, chunk_size=16 * KIB, codec=codec)
        assert found.total is not None
        for sampled, sizes in zip([*found.sources, found.total], [*(m.sizes for m in exact.sources), exact.total],
                                  strict=True):  # fmt: skip
            for name in ("data_size", "storage_size", "chunks", "distinct_chunks"):
                value = getattr(sampled, name)
                assert value.is_exact
                assert value.value == getattr(sizes, name), name


def test_interval_covers_the_truth_for_most_seeds(disk: Path) -> None:
    """The whole way: read, choose by digest, compress, estimate; 95 % of 60 seeds, give or take."""
    with open_source(str(disk)) as source:
        exact = measure([source], chunk_size=16 * KIB).total.storage_size
        hits = 0
        for number in range(60):
            found = measure_sampled(
                [source], share=0.05, chunk_size=16 * KIB, seed=random.Random(number).getrandbits(64)
            )
            size = found.sources[0].storage_size
            hits += size.low <= exact <= size.high
            assert size.low < size.value < size.high
    assert hits >= 52


def test_choice_by_digest_covers_in_93_to_97_of_100_seeds(disk: Path) -> None:
    """1,000 seeds: every chunk is compressed once, then samples are drawn as a run draws them."""
    with open_source(str(disk)) as source:
        logs = [joined(list(survey(source, threads=2, progress=Progress(), cancelled=None)))]
        everything = next(exact_levels(logs, [source.virtual_size], [16 * KIB], None, pick_share=1.0))
        trials = Trials(16 * KIB, [CodecProfile(1)], 2)
        trials.add(source, everything.picks[0], None)
        lengths = dict(zip(everything.picks[0].tolist(), trials.finish().lengths[:, 0].tolist(), strict=True))
    truth, hits = sum(lengths.values()), 0
    for number in range(1000):
        seed = random.Random(number).getrandbits(64)
        level = next(exact_levels(logs, [40 * MIB], [16 * KIB], None, pick_share=0.05, seed=seed))
        sample = np.array([lengths[offset] for offset in level.picks[0].tolist()])
        found = estimate_sum(sample, level.distinct, 1, 16 * KIB)
        hits += found.low <= truth <= found.high
    assert 930 <= hits <= 970


def test_url_is_fetched_in_part_only(disk: Path, tmp_path: Path) -> None:
    image = convert(disk, tmp_path / "disk.qcow2", "-O", "qcow2")
    with open_source(str(disk)) as source:
        exact = measure([source], chunk_size=16 * KIB).total
    with serving(image.read_bytes()) as server:
        with open_source(server.url, allow_source=[server.host_port]) as source:
            found = measure_sampled([source], share=0.3, chunk_size=16 * KIB).sources[0]
        asked = 0
        for _, _, headers in server.seen:
            first, last = headers["Range"].removeprefix("bytes=").split("-")
            asked += int(last) - int(first) + 1
    assert found.bytes_read < image.stat().st_size * 0.45
    assert asked < image.stat().st_size * 0.55
    assert found.chunks.low <= exact.chunks <= found.chunks.high
    assert found.storage_size.low < exact.storage_size < found.storage_size.high


@pytest.mark.parametrize("options", [("raw",), ("qcow2",), ("vmdk",), ("qcow2", "-c")], ids=" ".join)
def test_url_is_asked_for_maps_and_samples_only(tmp_path: Path, options: tuple[str, ...]) -> None:
    """24 MiB of random bytes: 40 samples of 256 KiB, encoded as they are, and at most as much as two for tables."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(random.Random(8).randbytes(24 * MIB))
    image = convert(disk, tmp_path / "image", "-O", *options)
    with serving(image.read_bytes()) as server:
        with open_source(server.url, allow_source=[server.host_port]) as source:
            found = measure_sampled([source], share=0.05, chunk_size=16 * KIB).sources[0]
        asked = 0
        for _, _, headers in server.seen:
            first, last = headers["Range"].removeprefix("bytes=").split("-")
            asked += int(last) - int(first) + 1
    assert found.bytes_read <= 40 * 256 * KIB + 40 * 64 * KIB * ("-c" in options)
    assert asked <= found.bytes_read + 512 * KIB
    assert found.storage_size.low <= 24 * MIB <= found.storage_size.high * 1.001
    assert found.data_size.value == pytest.approx(24 * MIB, rel=0.01)


def test_url_fetched_whole_is_exact(disk: Path) -> None:
    with open_source(str(disk)) as source:
        exact = measure([source]).total
    with serving(disk.read_bytes()) as server, open_source(server.url, allow_source=[server.host_port]) as source:
        found = measure_sampled([source], share=1.0)
    assert found.total is None
    assert found.sources[0].storage_size.value == exact.storage_size
    assert found.sources[0].distinct_chunks.value == exact.distinct_chunks
    assert found.sources[0].data_size.value == exact.chunks * exact.chunk_size


@pytest.mark.parametrize("times", [1, 2, 5])
def test_repeats_are_guessed_from_a_sample(times: int) -> None:
    """Chunks of which each occurs equally often, spread at random: means over 60 samples of a fifth are close."""
    chance = np.random.default_rng(5)
    distinct = 2000
    found, hits = [], 0
    for _ in range(60):
        disk = chance.permutation(np.repeat(np.arange(distinct), times)).reshape(-1, 4)  # four chunks a unit
        units = np.sort(chance.choice(len(disk), len(disk) // 5, replace=False))
        digests = disk[units].reshape(-1)
        met, numbers = np.unique(digests, return_inverse=True)
        seen = Seen(numbers, np.repeat(units, 4), np.full(len(met), 1000))
        sizes = estimate(seen, units, len(units) / len(disk), 4096)
        found.append(sizes.distinct_chunks.value)
        hits += sizes.distinct_chunks.low <= distinct <= sizes.distinct_chunks.high
        assert sizes.storage_size.value == pytest.approx(1000 * sizes.distinct_chunks.value)
    assert np.mean(found) == pytest.approx(distinct, rel=0.12)
    assert hits >= 45


def test_arguments_are_checked(disk: Path) -> None:
    with open_source(str(disk)) as source:
        for share, seed in itertools.product((0.0, 1.5), (0,)):
            with pytest.raises(UsageError):
                measure_sampled([source], share=share, seed=seed)
        with pytest.raises(UsageError):
            measure_sampled([source], share=0.5, seed=1 << 64)
