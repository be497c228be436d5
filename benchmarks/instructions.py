"""Instructions that kernels and one small import take: what noisy machines cannot hide.

    python -m benchmarks.instructions            # counts, beside those kept in instructions.json
    python -m benchmarks.instructions --keep     # keeps what was counted

Each case runs under callgrind twice, with its work done once and done twice; the difference is the work, without the
start of Python. Counts depend on compilers, libraries and instruction sets, so they are compared only where
these are the ones that they were kept with.
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Callable
from pathlib import Path

from benchmarks.inputs import MIB

KEPT = Path(__file__).with_suffix(".json")
KIB = 1 << 10
CHUNK_SIZE = 64 * KIB
CPU = "avx2"
"""The instruction set of all counts: the largest that callgrind runs."""

Work = Callable[[], object]


def words(size: int) -> bytes:
    """Return text that compresses about as files do, always the same."""
    chance = random.Random(1)
    some = [chance.randbytes(chance.randint(3, 12)).hex().encode() for _ in range(4096)]
    return b" ".join(chance.choice(some) for _ in range(size // 8))[:size]


def scan_xxh3() -> Work:
    """Zero test and XXH3 of 16 MiB."""
    return scanning(16 * MIB, None)


def scan_blake3() -> Work:
    """Zero test and BLAKE3 of 4 MiB."""
    return scanning(4 * MIB, bytes(range(32)))


def scanning(size: int, key: bytes | None) -> Work:
    """Return a scan of `size` bytes."""
    from dataplane.engine.scan import scan_chunks

    data, count = random.Random(2).randbytes(size), size // CHUNK_SIZE
    digests, states = bytearray((16 if key is None else 32) * count), bytearray(count)
    return lambda: scan_chunks(data, CHUNK_SIZE, digests, states, key)


def scan_zeros() -> Work:
    """Zero test of 64 MiB of zeros."""
    from dataplane.engine.scan import scan_chunks

    data, count = bytes(64 * MIB), 64 * MIB // CHUNK_SIZE
    digests, states = bytearray(16 * count), bytearray(count)
    return lambda: scan_chunks(data, CHUNK_SIZE, digests, states)


def search_gear() -> Work:
    """Places to cut in 4 MiB that look random."""
    from dataplane.engine import gear

    data = random.Random(2).randbytes(4 << 20)
    return lambda: gear.find(data)


def fold_digests() -> Work:
    """Digests of 262,144 blocks folded once, and the keys of their parents gathered."""
    from dataplane.engine.fold import fold, gather

    blocks = 1 << 18
    children = array("Q", random.Random(3).randbytes(8 * blocks))
    parents, keys = array("Q", bytes(4 * blocks)), array("Q", bytes(4 * blocks))

    def work() -> None:
        fold(children, parents)
        gather(parents, 2, 1, keys, 0, len(keys))

    return work


def tally_keys() -> Work:
    """262,144 sorted keys, some of them twice, counted."""
    from dataplane.engine.fold import tally

    some = array("Q", random.Random(3).randbytes(7 << 18)).tolist()
    keys, references = array("Q", sorted(some + some[: 1 << 15])), array("q", bytes(192))
    return lambda: tally(keys, references)


def count_ids() -> Work:
    """100,000 ids counted, half of them in a count file and half only in the index."""
    from dataplane.engine.counts import count_chunks
    from dataplane.engine.run_builder import RunBuilder, build_filter
    from dataplane.engine.runs import Run
    from dataplane.store import format as fmt
    from dataplane.store.runs import open_run

    count = 50_000
    ids = random.Random(4).randbytes(64 * count)
    some, everything = (
        b"".join(sorted(ids[at : at + 32] for at in range(0, end, 32))) for end in (32 * count, len(ids))
    )

    def run(entries: bytes) -> Run:
        layout = fmt.RunLayout.plan(1, len(entries) // fmt.RUN_ENTRY_SIZE)
        filter_bits = bytes(build_filter(entries, layout.filter_blocks))
        data = memoryview(fmt.build_run(layout, [bytes(32)], filter_bits, entries))
        return open_run(data, fmt.parse_run(data, "the run")[0], bytes(1))

    builder, lengths = RunBuilder(), array("I", [64]) * (2 * count)
    builder.add(0, 32, ids, lengths, lengths)
    index = run(builder.finish())
    counts = run(count_chunks(some, [], [index], 3, False).entries)
    return lambda: count_chunks(everything, [counts], [index], 7, False)


def claim_digests() -> Work:
    """100,000 digests claimed in an empty table."""
    from dataplane.engine.scan import ChunkState
    from dataplane.engine.table import DigestTable

    count = 100_000
    digests = random.Random(3).randbytes(32 * count)
    return lambda: DigestTable(32).claim(digests, bytearray([ChunkState.DATA]) * count)


def look_up_ids() -> Work:
    """100,000 ids looked up in a run that has half of them."""
    from dataplane.engine.run_builder import RunBuilder, build_filter
    from dataplane.engine.runs import RunSet
    from dataplane.engine.scan import ChunkState
    from dataplane.store import format as fmt
    from dataplane.store.runs import open_run

    count = 50_000
    ids = random.Random(4).randbytes(64 * count)
    builder, lengths = RunBuilder(), array("I", [4096]) * count
    builder.add(0, 32, ids[: 32 * count], lengths, lengths)
    entries, layout = builder.finish(), fmt.RunLayout.plan(1, count)
    filter_bits = bytes(build_filter(entries, layout.filter_blocks))
    data = memoryview(fmt.build_run(layout, [bytes(32)], filter_bits, entries))
    runs = RunSet([open_run(data, fmt.parse_run(data, "the run")[0], bytes(1))])
    return lambda: runs.mark_stored(ids, bytearray([ChunkState.NEW]) * (2 * count))


def encode_chunks() -> Work:
    """32 chunks of 64 KiB compressed with zstd 1."""
    from dataplane.engine.codec import Encoder

    encoder, plain = Encoder(1), words(CHUNK_SIZE)
    return lambda: [encoder.encode_bytes(plain) for _ in range(32)]


def decode_chunks() -> Work:
    """64 chunks of 64 KiB decompressed with zstd."""
    from dataplane.engine.codec import Codec, Decoder, Encoder

    decoder, encoded = Decoder(), Encoder(1).encode_bytes(words(CHUNK_SIZE))
    return lambda: [decoder.decode_bytes(Codec.ZSTD, encoded, CHUNK_SIZE) for _ in range(64)]


def decode_tables() -> Work:
    """262,144 entries of qcow2 tables, no two neighbours alike, turned into extents."""
    from dataplane.engine.batches import BatchBuilder
    from dataplane.engine.cluster_map import ClusterMap
    from dataplane.extent import WINDOW_SIZE, ExtentCodec
    from dataplane.formats.tables import ROWS_MAX

    count = 1 << 18
    size = count << 16
    table = b"".join((((number * 7 + 1) % count) << 16).to_bytes(8, "big") for number in range(count))

    def work() -> None:
        rows = BatchBuilder(WINDOW_SIZE, ROWS_MAX)
        cluster_map = ClusterMap(
            rows, cluster_bits=16, virtual_size=size, data_size=2 * size, reader=0, codec=ExtentCodec.DEFLATE,
            allows_zero=True, extended=False, is_external=False, elsewhere="",
        )  # fmt: skip
        cluster_map.add(array("q", [0]), table)
        rows.take(size, last=True)

    return work


def small_import() -> Work:
    """A disk of 8 MiB, half of it words and some of it twice, imported into a store of its own."""
    from dataplane.formats.probe import open_source
    from dataplane.ingest.importing import import_image
    from dataplane.store.store import Store

    text = words(3 * MIB)
    disk = bytes(MIB) + text + bytes(3 * MIB) + text[:MIB]

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="instructions-") as folder:
            (Path(folder) / "disk").write_bytes(disk)
            with Store.create(f"{folder}/store") as store, open_source(f"{folder}/disk") as source:
                import_image(store, source, name="image", threads=1)

    return work


CASES: dict[str, Callable[[], Work]] = {
    case.__name__: case
    for case in (
        scan_xxh3,
        scan_blake3,
        scan_zeros,
        search_gear,
        fold_digests,
        tally_keys,
        count_ids,
        claim_digests,
        look_up_ids,
        encode_chunks,
        decode_chunks,
        decode_tables,
        small_import,
    )
}


def environment() -> dict[str, str]:
    """Return what counts depend on besides our code."""
    from dataplane.engine.cpu import library_versions

    compiler = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    return {"machine": platform.machine(), "gcc": compiler, "python": platform.python_version()} | library_versions()


def count(case: str) -> int:
    """Return the instructions that a case's work takes; raises RuntimeError when callgrind says none."""
    return _collected(case, 2) - _collected(case, 1)


def _collected(case: str, turns: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    command += ["-m", "benchmarks.instructions", case, str(turns)]
    settings = os.environ | {"PYTHONHASHSEED": "0", "DATAPLANE_CPU": CPU}
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"callgrind could not count {case}: {done.stderr[-2000:]}")
    return int(found[1])


def main(arguments: list[str]) -> int:
    """Print counts beside those kept, or do a case's work so that it can be counted; return the exit code."""
    if len(arguments) == 2 and arguments[0] in CASES:
        work = CASES[arguments[0]]()
        for _ in range(int(arguments[1])):
            work()
        return 0
    if arguments not in ([], ["--keep"]):
        print("usage: python -m benchmarks.instructions [--keep]", file=sys.stderr)
        return 2
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {"counts": {}}
    counts = {}
    for case in CASES:
        counts[case] = count(case)
        before = kept["counts"].get(case)
        print(f"{case:16} {counts[case]:>14,} {'' if not before else f'{counts[case] / before - 1:+.2%}'}")
    if arguments:
        KEPT.write_text(json.dumps({"environment": environment(), "counts": counts}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
