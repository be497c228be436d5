"""The tuner beside imports into real stores, brute force, and the zstandard package."""

from __future__ import annotations

import itertools
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from dataplane import Store, import_image, open_source
from dataplane.analysis import costs
from dataplane.analysis.estimate import Estimate, estimate_count, estimate_sum, student95
from dataplane.analysis.tune_fields import tune_fields
from dataplane.analysis.tuning import TuneOptions, Tuner, Tuning
from dataplane.analysis.verdict import judge, knee
from dataplane.errors import UsageError
from dataplane.ingest.progress import Progress
from dataplane.limits import KIB, MIB
from dataplane.store.statistics import store_sizes
from tests.disks import disk_bytes, write_sparse
from tests.oracles import census

SIZES = (4 * KIB, 64 * KIB, MIB)


@pytest.fixture(scope="module")
def disks() -> list[bytes]:
    first = disk_bytes(12 * MIB, 1, 32 * KIB)
    return [first, first[: 5 * MIB] + disk_bytes(3 * MIB, 2) + first[8 * MIB :]]


@pytest.fixture(scope="module")
def paths(disks: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("disks")
    return [write_sparse(folder / f"{number}.raw", disk) for number, disk in enumerate(disks)]


def tune(paths: list[Path], **options: Any) -> Tuning:
    sources = [open_source(str(path)) for path in paths]
    try:
        tuner = Tuner([path.name for path in paths], sources, TuneOptions(**options), 2)
        for _ in sources:
            assert tuner.read(Progress())
        return tuner.finish()
    finally:
        for source in sources:
            source.close()


@pytest.fixture(scope="module")
def tuned(paths: list[Path]) -> Tuning:
    return tune(paths, chunk_sizes=SIZES, codecs=("none", "zstd:1", "zstd:3"))


def profile(tuning: Tuning, size: int, codec: str) -> dict[str, Any]:
    return next(one for one in tuning.profiles if (one["chunk_size"], one["codec"]) == (size, codec))


@pytest.mark.parametrize("size", SIZES)
def test_profiles_are_what_a_store_would_take(tuned: Tuning, paths: list[Path], size: int, tmp_path: Path) -> None:
    with Store.create(tmp_path / "store", chunk_size=size, codec="zstd:1") as store:
        for path in paths:
            with open_source(str(path)) as source:
                import_image(store, source, name=path.name, threads=1)
        live = store_sizes(store)
        physical = sum(file.stat().st_size for file in store.layout.packs.rglob("*.pack"))
        index = sum(file.stat().st_size for file in store.layout.runs.rglob("*.run"))
        entries = len(store.index())
    found = profile(tuned, size, "zstd:1")
    assert found["stored_size_low"] <= live.live_size <= found["stored_size_high"]
    assert profile(tuned, size, "none")["stored_size"] == live.live_chunks * size
    # Manifests, pack tables and the index are reckoned, not built: the pages of both images are in the packs too.
    assert found["total_size"] - found["index_disk"] == pytest.approx(physical, rel=0.12)
    assert costs.index_disk(entries, physical) == pytest.approx(index, rel=0.06, abs=600)  # two runs, not one


def test_trials_equal_the_zstandard_package_when_every_chunk_is_tried(tuned: Tuning, disks: list[bytes]) -> None:
    """At 64 KiB and above all distinct chunks are few enough to be compressed: nothing is estimated."""
    for size, level in itertools.product((64 * KIB, MIB), (1, 3)):
        encoder = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
        expected = sum(min(size, len(encoder.compress(chunk))) for chunk in census.count(disks, size).total)
        found = profile(tuned, size, f"zstd:{level}")
        if found["stored_size_low"] == found["stored_size_high"]:
            assert found["stored_size"] == pytest.approx(expected, rel=0.002)  # another zstd may be built in there
        else:
            assert found["stored_size_low"] * 0.998 <= expected <= found["stored_size_high"] * 1.002


def test_fields_add_up(tuned: Tuning, disks: list[bytes]) -> None:
    fields = tune_fields(tuned)
    virtual = sum(map(len, disks))
    for one in fields["sizes"]:
        expected = census.count(disks, one["chunk_size"])
        assert one["zero_size"] + one["data_size"] == virtual
        assert one["duplicate_size"] + one["shared_size"] + one["unique_size"] == one["chunks"] * one["chunk_size"]
        assert one["unique_size"] == len(expected.total) * one["chunk_size"]
        assert one["shared_matrix"] == [[n * one["chunk_size"] for n in row] for row in expected.shared]
        assert sum(one["stored_lengths"]["zstd:1"]) == one["sampled_chunks"]
    cells = fields["maps"]
    for number, strip in enumerate(cells):
        of_size = next(one for one in fields["sizes"] if one["chunk_size"] == fields["maps_chunk_size"])
        data = sum(sum(cell[1:]) for cell in strip["cells"])
        assert data == of_size["sources"][number]["chunks"] * of_size["chunk_size"]


def test_interrupted_run_keeps_what_was_read(paths: list[Path]) -> None:
    import threading

    cancelled = threading.Event()
    with open_source(str(paths[0])) as first, open_source(str(paths[1])) as second:
        tuner = Tuner(["0", "1"], [first, second], TuneOptions(chunk_sizes=SIZES, codecs=("none",)), 2)
        with pytest.raises(UsageError, match="no source"):
            tuner.finish()
        tuner.read(Progress())
        cancelled.set()
        assert not tuner.read(Progress(), cancelled)
        found = tuner.finish()
    assert not found.complete
    assert [source.complete for source in found.sources] == [True, False]
    assert found.sizes[0].level.counts.chunks[0] > 0


@pytest.mark.parametrize("size", [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB])
@pytest.mark.parametrize("request_size", [4 * KIB, 64 * KIB])
def test_random_read_amplification_is_the_mean_over_all_offsets(size: int, request_size: int) -> None:
    offsets = range(0, max(size, request_size), 4 * KIB)
    decoded = [((at + request_size - 1) // size - at // size + 1) * size for at in offsets]
    expected = sum(decoded) / len(decoded) / request_size
    assert costs.random_read_amplification(size, request_size) == pytest.approx(expected)


def test_trace_reads_only_chunks_that_hold_data(paths: list[Path], disks: list[bytes]) -> None:
    chance = random.Random(3)
    trace = tuple((chance.randrange(11 * MIB), chance.randrange(1, 200_000)) for _ in range(200))
    found = tune(paths[:1], chunk_sizes=SIZES, codecs=("none",), trace=trace)
    for fact in found.sizes:
        size = fact.level.chunk_size
        used = [chunk != bytes(size) for chunk in census.chunks_of(disks[0], size)]
        touched = [
            {n for n in range(at // size, (at + length - 1) // size + 1) if n < len(used) and used[n]}
            for at, length in trace
        ]
        assert fact.trace is not None
        assert fact.trace["bytes_decoded"] == sum(map(len, touched)) * size
        asked = sum(length for _, length in trace)
        assert fact.trace["amplification_cached"] == pytest.approx(len(set().union(*touched)) * size / asked, abs=1e-3)


def partitioned(content: bytes, start: int) -> bytes:
    """Return a disk with an MBR that names one partition from byte `start` on."""
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", start // 512, len(content) // 512)
    return (bytes(446) + entry + bytes(48) + b"\x55\xaa").ljust(start, b"\0") + content


def test_alignment_tells_a_partition_that_is_off(tmp_path: Path) -> None:
    """64 KiB blocks that repeat in the partition, which begins 4 KiB off: chunks at 0 miss that."""
    chance = random.Random(4)
    blocks = [chance.randbytes(64 * KIB) for _ in range(8)]
    content = b"".join(chance.choice(blocks) for _ in range(160))
    aligned, off, odd = (tmp_path / name for name in ("aligned", "off", "odd"))
    aligned.write_bytes(partitioned(content, MIB))
    off.write_bytes(partitioned(content, MIB + 4 * KIB))
    odd.write_bytes(partitioned(content, 63 * 512))
    found = tune([aligned, off, odd], chunk_sizes=(4 * KIB, 64 * KIB), codecs=("none",)).alignments
    assert [(one.offset, one.off_block, one.warns) for one in found] == [
        (MIB, False, False),
        (MIB + 4 * KIB, False, True),
        (63 * 512, True, True),
    ]
    expected = len(census.count([content], 64 * KIB).total) / len(census.count([off.read_bytes()], 64 * KIB).total)
    assert found[1].gains == {64 * KIB: pytest.approx(1 - expected, abs=0.02)}
    assert found[0].gains == {}


def made_up(size: int, codec: str, space: float, memory: float) -> dict[str, Any]:
    return {
        "chunk_size": size, "codec": codec, "total_size": space, "index_memory": memory, "import_seconds": 1.0,
        "read_amplification_64k": size / (64 * KIB),
    }  # fmt: skip


def test_verdict_follows_weights_and_memory() -> None:
    profiles = [made_up(4096 << n, "none", 100 * 1.5**n, 1000 / 2**n) for n in range(5)]
    only = {"space": 1.0}
    assert judge(profiles, only, None).recommended == 0
    assert judge(profiles, {"memory": 1.0}, None).recommended == 4
    limited = judge(profiles, only, 300)
    assert (limited.recommended, limited.excluded, limited.neighbours) == (2, (0, 1), (1, 3))
    assert judge(profiles, only, 1).recommended is None
    # A doubling of space weighs as much as one of memory: 1.5 times the space for half the memory is worth it.
    assert judge(profiles, {"space": 1.0, "memory": 1.0}, None).recommended == 4
    assert judge(profiles, {"space": 2.0, "memory": 1.0}, None).recommended == 0


def test_knee_is_where_the_curve_bends() -> None:
    spaces = [100, 101, 103, 110, 200, 400]
    profiles = [made_up(4096 << n, "none", space, 1) for n, space in enumerate(spaces)]
    assert knee(profiles, range(10, 16)) == 13
    assert knee(profiles[:2], range(2)) is None
    assert knee([made_up(4096 << n, "none", 100 * n, 1) for n in range(4)], range(4)) is None


def test_options_are_checked() -> None:
    for wrong in (
        {"chunk_sizes": ()}, {"chunk_sizes": (8192, 4096)}, {"chunk_sizes": (5000,)}, {"codecs": ()}, {"sample": 3},
        {"sample": 0}, {"sample": 2, "trace": ((0, 1),)},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            TuneOptions(**wrong)


def test_student_quantiles() -> None:
    for freedom, expected in ((1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)):
        assert student95(freedom) == pytest.approx(expected, rel=0.02)


def test_sums_of_samples_are_covered_by_their_intervals() -> None:
    """1,000 samples of 5 % of chunks whose lengths are those of a disk: half of them barely compress, half do well."""
    chance = np.random.default_rng(11)
    lengths = np.concatenate((chance.integers(200, 9000, 1000), chance.integers(50_000, 65_536, 1000)))
    hits = 0
    for _ in range(1000):
        sample = chance.choice(lengths, 100, replace=False)
        found = estimate_sum(sample, Estimate.exact(2000), 1, 65536)
        hits += found.low <= lengths.sum() <= found.high
    assert 930 <= hits <= 970
    assert estimate_sum(lengths, Estimate.exact(2000), 1, 65536) == Estimate.exact(float(lengths.sum()))
    assert estimate_sum(lengths[:0], Estimate.exact(2), 1, 10) == Estimate(20, 2, 20)
    assert estimate_sum(lengths[:0], Estimate.exact(0), 1, 10) == Estimate.exact(0)
    assert estimate_count(5, 1) == Estimate.exact(5)
