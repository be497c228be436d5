"""Mutants of valid qcow2 images: what both qemu-img and this library accept has one content."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from dataplane.errors import SourceError
from dataplane.formats.probe import open_source
from tests.formats.qcow2_writer import EXTENDED_L2, Image, Snapshot
from tests.oracles.extents import checked_extents, read_all

COMPARED_SIZE_MAX = 64 << 20


def bases() -> list[Image]:
    draw = random.Random(20)
    made = []
    for version, bits, features in [(2, 9, 0), (2, 16, 0), (3, 9, 0), (3, 12, 0), (3, 16, 0), (3, 14, EXTENDED_L2)]:
        size = 1 << bits
        clusters: dict[int, str | tuple[str, bytes]] = {
            0: ("data", draw.randbytes(size)),
            1: ("packed", b"b" * size),
            4: ("data", draw.randbytes(size)),
            5: ("data", b"c" * size),
            7: ("packed", draw.randbytes(size // 4)),
        }
        if version == 3:
            clusters |= {2: "zero", 3: "zero-allocated"}
        if features:
            clusters[8] = ("parts", b"..00aabb" * 4)
        made.append(
            Image(
                9 * size,
                version=version,
                cluster_bits=bits,
                clusters=clusters,
                incompatible=features,
                compression=draw.choice(["zlib", "zstd"]) if version == 3 else "zlib",
                snapshots=[Snapshot(b"1", b"one", virtual_size=9 * size)],
            )
        )
    return made


BASES = [(image, image.write()) for image in bases()]


def mutant(draw: random.Random) -> bytes:
    """Return one of the images with a few fields, entries or bytes changed."""
    image, whole = draw.choice(BASES)
    file = bytearray(whole)
    size = image.cluster_size
    for _ in range(draw.randrange(1, 4)):
        where = draw.randrange(5)
        if where == 0:  # a field of the header
            at, width = draw.choice([(4, 4), (20, 4), (24, 8), (36, 4), (40, 8), (48, 8), (60, 4), (64, 8), (72, 8)])
            value = draw.choice([0, 1, 2, 3, 9, 16, size, 2 * size, 8 * size, draw.randrange(1 << 8 * width)])
            file[at : at + width] = value.to_bytes(width, "big")
        elif where in (1, 2):  # an entry of the L1 or L2 table, moved to another cluster or given another flag
            first = 2 * size if where == 1 else 3 * size
            at = first + 8 * draw.randrange(20)
            entry = int.from_bytes(file[at : at + 8], "big")
            entry = draw.choice(
                [entry ^ 1 << draw.randrange(64), draw.randrange(16) * size | 1 << 63, entry + size, entry | 1, 0]
            )
            file[at : at + 8] = (entry % (1 << 64)).to_bytes(8, "big")
        elif where == 3:
            file[draw.randrange(min(len(file), 6 * size))] = draw.randrange(256)
        else:
            del file[draw.randrange(3 * size, len(file) + 1) :]
    return bytes(file)


def ours(path: Path) -> bytes | None:
    try:
        with open_source(path, format="qcow2") as source:
            if source.virtual_size > COMPARED_SIZE_MAX:
                return None
            checked_extents(source)
            return read_all(source)
    except SourceError:
        return None


def qemus(path: Path) -> bytes | None:
    raw = path.with_suffix(".raw")
    raw.unlink(missing_ok=True)
    command: list[str | Path] = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return None
    return raw.read_bytes() if done.returncode == 0 else None


def compare_mutants(tmp_path: Path, seeds: range) -> int:
    """Return how many mutants both accepted; their contents are asserted to be equal."""
    accepted = 0
    for seed in seeds:
        path = tmp_path / "disk"
        path.write_bytes(mutant(random.Random(seed)))
        mine = ours(path)
        theirs = qemus(path) if mine is not None else None
        if mine is None or theirs is None:
            continue
        accepted += 1
        # qemu leaves out what lies behind the last whole sector.
        assert len(theirs) <= len(mine) < len(theirs) + 512 + 1, f"mutant {seed}"
        assert mine[: len(theirs)] == theirs, f"mutant {seed}"
    return accepted


def test_mutants_that_both_accept_are_equal(tmp_path: Path) -> None:
    assert compare_mutants(tmp_path, range(150)) > 30


@pytest.mark.slow
def test_many_mutants_that_both_accept_are_equal(tmp_path: Path) -> None:
    assert compare_mutants(tmp_path, range(1000, 3500)) > 1000
