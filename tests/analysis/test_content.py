"""Content-defined chunks as candidates: beside disks cut byte by byte, and the zstandard package."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from dataplane.analysis.content_levels import ContentLevels
from dataplane.analysis.content_tuning import judge_content, read_amplification
from dataplane.analysis.estimate import Estimate, estimate_ratio
from dataplane.analysis.tune_fields import tune_fields
from dataplane.analysis.tuning import Tuning
from dataplane.analysis.verdict import overlap
from dataplane.limits import KIB, MIB
from tests.analysis.test_tuning import made_up, tune
from tests.disks import disk_bytes, write_sparse
from tests.oracles import cdc as oracle

AVERAGES = (4 * KIB, 16 * KIB, 128 * KIB)


@pytest.fixture(scope="module")
def disks() -> list[bytes]:
    """The second is the first with some bytes put in, which moves what is behind them."""
    first = disk_bytes(2 * MIB, 1, 32 * KIB)
    second = first[:300_000] + b"put in" + first[300_000 : MIB + 777] + first[:300_000]
    return [first, second.ljust(len(second) + -len(second) % 512, b"\0")]


@pytest.fixture(scope="module")
def paths(disks: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("disks")
    return [write_sparse(folder / f"{number}.raw", disk) for number, disk in enumerate(disks)]


@pytest.fixture(scope="module")
def tuned(paths: list[Path]) -> Tuning:
    return tune(paths, chunk_sizes=AVERAGES, codecs=("none", "zstd:1"), cdc=True)


@dataclass(frozen=True, slots=True)
class Counted:
    """All chunks of two disks at one average size, as (digest, length), and where each digest's bytes are."""

    chunks: list[list[tuple[int, int]]]
    plain: dict[int, bytes]


@pytest.fixture(scope="module")
def counted(disks: list[bytes]) -> dict[int, Counted]:
    pieces = [oracle.pieces(disk) for disk in disks]
    found = {}
    for average in AVERAGES:
        chunks = [oracle.chunks(one, average) for one in pieces]
        plain = {
            digest: disk[offset : offset + length].ljust(length, b"\0")
            for disk, own in zip(disks, chunks, strict=True)
            for offset, length, digest in own
        }
        found[average] = Counted([[(digest, length) for _, length, digest in own] for own in chunks], plain)
    return found


def test_sizes_are_those_of_whole_disks(tuned: Tuning, counted: dict[int, Counted], disks: list[bytes]) -> None:
    content = tune_fields(tuned)["content_defined"]
    for one in content["sizes"]:
        expected = counted[one["chunk_size"]]
        data = sum(length for own in expected.chunks for _, length in own)
        inside = sum(length for own in expected.chunks for _, length in set(own))
        unique = sum(map(len, expected.plain.values()))
        assert one["chunks"] == sum(map(len, expected.chunks))
        assert one["distinct_chunks"] == one["distinct_chunks_low"] == len(expected.plain)
        assert (one["data_size"], one["unique_size"]) == (data, unique)
        assert (one["duplicate_size"], one["shared_size"]) == (data - inside, inside - unique)
        assert one["zero_size"] == max(0, sum(map(len, disks)) - data)
        assert one["mean_size"] == round(data / one["chunks"])


def test_moved_content_is_shared_by_content_only(tmp_path: Path) -> None:
    files = [random.Random(number).randbytes(300_000 + 1000 * number) for number in range(8)]
    paths = [tmp_path / "before", tmp_path / "behind"]
    paths[0].write_bytes(b"".join(files))
    paths[1].write_bytes(b"moved" + b"".join(files[3:] + files[:3]))
    tuning = tune(paths, chunk_sizes=(16 * KIB,), codecs=("none",), cdc=True)
    fields = tune_fields(tuning)
    assert fields["sizes"][0]["dedup_ratio"] < 1.01
    assert fields["content_defined"]["sizes"][0]["dedup_ratio"] > 1.9
    verdict = fields["content_defined"]["verdict"]
    assert verdict["pays"]
    assert not verdict["intervals_overlap"]
    assert verdict["saved_size"] == fields["profiles"][0]["total_size"] - verdict["total_size"] > 2_000_000


def test_stored_bytes_are_those_of_the_zstandard_package(tuned: Tuning, counted: dict[int, Counted]) -> None:
    assert tuned.content is not None
    encoder = zstandard.ZstdCompressor(level=1, write_content_size=True, write_checksum=False)
    for profile in tuned.content.profiles:
        plain = counted[int(profile["chunk_size"])].plain.values()
        if profile["codec"] == "none":
            assert profile["stored_size"] == sum(map(len, plain))
            continue
        expected = sum(min(len(chunk), len(encoder.compress(chunk))) for chunk in plain)
        assert float(profile["stored_size_low"]) * 0.998 <= expected <= float(profile["stored_size_high"]) * 1.002
        if len(plain) <= 512:
            assert profile["stored_size"] == pytest.approx(expected, rel=0.002)
        assert float(profile["import_rate"]) > 0


def test_threads_and_formats_change_nothing(paths: list[Path], tmp_path: Path) -> None:
    from tests.disks import convert

    other = convert(paths[0], tmp_path / "disk.qcow2", "-O", "qcow2", "-c")
    seen = []
    for path in (paths[0], other):
        content = tune_fields(tune([path], chunk_sizes=AVERAGES, codecs=("none",), cdc=True))["content_defined"]
        seen.append((content["sizes"], [one["stored_size"] for one in content["profiles"]]))
    assert seen[0] == seen[1]


class Taken:
    """Stands for a cutter that has some chunks ready."""

    def __init__(self, digests: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]) -> None:
        self._chunks = digests, lengths, np.arange(len(digests)) * 4096

    def take(self, number: int) -> tuple[Any, Any, Any]:
        assert number == 0
        return self._chunks


def test_sampled_levels_cover_the_truth_in_bounded_memory() -> None:
    chance = np.random.default_rng(5)
    hits = sizes_hit = 0
    for _ in range(100):
        digests = chance.integers(0, 1 << 63, 20_000, dtype=np.uint64) * np.uint64(2)
        digests |= chance.integers(0, 2, 20_000, dtype=np.uint64)
        lengths = chance.integers(1024, 32768, 20_000).astype(np.uint32)
        levels = ContentLevels(2, (4096,), 4, 2000)
        for image in (0, 1):
            levels.add(image, Taken(digests[: 15_000 + 5000 * image], lengths[: 15_000 + 5000 * image]))  # type: ignore[arg-type]
        (level,) = levels.levels(512, 16 * MIB)
        assert levels.rate == 32  # 35,000 kept at 1/4 would be too many
        hits += level.distinct.low <= 20_000 <= level.distinct.high
        truth = float(lengths.sum())
        sizes_hit += level.unique_size.low <= truth <= level.unique_size.high
        assert (sum(level.chunks), sum(map(len, level.picks))) == (35_000, 512)
    assert hits >= 88
    assert sizes_hit >= 88


def test_ratio_estimates_cover_the_truth() -> None:
    chance = np.random.default_rng(6)
    sizes = chance.integers(1000, 30_000, 4000)
    stored = (sizes * np.where(chance.random(4000) < 0.5, 1.0, chance.random(4000))).astype(np.int64)
    hits = 0
    for _ in range(1000):
        chosen = chance.choice(4000, 200, replace=False)
        found = estimate_ratio(stored[chosen], sizes[chosen], Estimate.exact(4000), Estimate.exact(float(sizes.sum())))
        hits += found.low <= stored.sum() <= found.high
    assert 925 <= hits <= 975
    exact = estimate_ratio(stored, sizes, Estimate.exact(4000), Estimate.exact(float(sizes.sum())))
    assert exact == Estimate.exact(float(stored.sum()))
    nothing = np.empty(0, dtype=np.int64)
    assert estimate_ratio(nothing, nothing, Estimate.exact(0), Estimate.exact(0)) == Estimate.exact(0)
    assert estimate_ratio(nothing, nothing, Estimate.exact(3), Estimate.exact(900)) == Estimate(900, 3, 900)


def test_read_amplification_is_the_mean_over_reads(tuned: Tuning, counted: dict[int, Counted]) -> None:
    """Reads at random places of data that is all chunks, cut anywhere."""
    assert tuned.content is not None
    chance = random.Random(4)
    for facts in tuned.content.facts:
        lengths = [length for own in counted[facts.level.average].chunks for _, length in own]
        ends = np.cumsum(lengths)
        decoded = 0
        for _ in range(20_000):
            # Chunks begin anywhere with respect to the reads, and reads may begin before the first one.
            at = chance.randrange(1 - 4096, int(ends[-1]))
            first, last = np.searchsorted(ends, [max(at, 0), min(at + 4095, int(ends[-1]) - 1)], side="right")
            decoded += sum(lengths[first : last + 1])
        assert decoded / 20_000 / 4096 * (int(ends[-1]) + 4095) / int(ends[-1]) == pytest.approx(
            read_amplification(facts.level, 4096), rel=0.05
        )


def test_trace_reads_the_chunks_it_meets(paths: list[Path], disks: list[bytes]) -> None:
    """Of the first disk only, each request chunk by chunk."""
    chance = random.Random(8)
    trace = tuple((chance.randrange(2 * MIB), chance.randrange(1, 100_000)) for _ in range(60))
    tuning = tune(paths, chunk_sizes=AVERAGES, codecs=("none",), cdc=True, trace=trace)
    assert tuning.content is not None
    pieces, asked = oracle.pieces(disks[0]), sum(length for _, length in trace)
    for facts in tuning.content.facts:
        chunks = [(at, at + length) for at, length, _ in oracle.chunks(pieces, facts.level.average)]
        met = [{(start, end) for start, end in chunks if start < at + length and at < end} for at, length in trace]
        decoded, once = (sum(end - start for start, end in some) for some in (itertools.chain(*met), set().union(*met)))
        assert facts.level.trace == {
            "requests": 60,
            "bytes_asked": asked,
            "bytes_decoded": decoded,
            "amplification": round(decoded / asked, 4),
            "amplification_cached": round(once / asked, 4),
        }
    assert [one["trace"] for one in tune_fields(tuning)["content_defined"]["sizes"]] == [
        facts.level.trace for facts in tuning.content.facts
    ]


def test_intervals_overlap_only_where_something_is_estimated() -> None:
    def ranged(total: int, low: int, high: int) -> dict[str, int]:
        return {"total_size": total + 5, "stored_size": total, "stored_size_low": low, "stored_size_high": high}

    assert overlap(ranged(10, 8, 12), ranged(14, 12, 16))
    assert overlap(ranged(10, 10, 10), ranged(11, 9, 13))
    assert not overlap(ranged(10, 8, 12), ranged(15, 13, 17))
    assert not overlap(ranged(10, 10, 10), ranged(10, 10, 10))


def test_verdict_weighs_both_kinds_together() -> None:
    fixed = [made_up(4096 << n, "none", 100, 1000 / 2**n) for n in range(3)]
    cheap = [made_up(8192, "none", 50, 500)]
    assert judge_content(fixed, cheap, {"space": 1.0}, None).pays
    assert not judge_content(fixed, cheap, {"memory": 1.0}, None).pays
    limited = judge_content(fixed, cheap, {"space": 1.0}, 300)
    assert (limited.best, limited.pays, limited.excluded) == (None, False, (0,))
    assert judge_content(fixed[:1], cheap, {"memory": 1.0}, 600).pays  # no fixed one fits
    assert not judge_content(fixed, [made_up(8192, "none", 100, 500)], {"space": 1.0}, None).pays
