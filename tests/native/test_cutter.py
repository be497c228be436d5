"""Pieces and the cutter beside whole disks cut byte by byte: windows, threads and holes leave no trace."""

from __future__ import annotations

import hashlib
import random
import threading
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.engine.cutter import Cutter
from dataplane.engine.pieces import PieceRows, check_window
from dataplane.engine.plan import Plan
from dataplane.engine.survey import Survey
from dataplane.engine.window import Window
from dataplane.extent import Extent, ExtentKind, pack_batch
from dataplane.limits import DECODED_SIZE_MAX, KIB, MIB
from tests.native.disks import opened
from tests.oracles import cdc as oracle

AVERAGES = tuple(1 << bits for bits in range(12, 23))
BLOCK = 4 * KIB

Chunks = list[tuple[int, int, int]]

GOLDEN_COUNTS = [371, 181, 88, 46, 23, 12, 7, 3, 2, 1, 1]
GOLDEN_OFFSETS = [
    0, 66445, 151192, 294169, 366316, 435051, 499119, 592686, 674004, 765952, 812225, 878561, 933967, 1004062,
    1127955, 1204488, 1242707, 1309848, 1381575, 1440710, 1532632, 1585689, 1655921,
]  # fmt: skip
GOLDEN_SHA256 = "97e1b239d42b5559d51707d5e92870375dc5ad3bec171bb8ff8e07987685cbfc"


def taken(cutter: Cutter) -> list[Chunks]:
    found = []
    for number in range(len(cutter.averages)):
        digests, lengths, offsets = (array(code, bytes(memoryview(part))) for code, part in
                                     zip("QIq", cutter.take(number), strict=True))  # fmt: skip
        found.append(list(zip(offsets.tolist(), lengths.tolist(), digests.tolist(), strict=True)))
    return found


def cut(
    disk: bytes, window_size: int, *, averages: tuple[int, ...] = AVERAGES, holes: int = 0, threads: int = 1,
    slice_windows: int = 3,
) -> list[Chunks]:  # fmt: skip
    """Cut a disk as an analysis does; of its zero blocks a share of `holes` of 100 are holes."""
    cutter = Cutter(averages)
    plan = Plan(pack_batch(extents(disk, holes)), window_size, DECODED_SIZE_MAX)
    with opened([disk]) as fds:
        for first in range(0, plan.window_count, slice_windows):
            count = min(slice_windows, plan.window_count - first)
            log = memoryview(bytearray(count * window_size // BLOCK * 8)).cast("Q", (count, window_size // BLOCK))
            rows = PieceRows(count)
            work = Survey(plan, fds, log, first, rows)
            crew = [threading.Thread(target=work.work, args=(Window(window_size, BLOCK),)) for _ in range(threads)]
            for member in crew:
                member.start()
            for member in crew:
                member.join()
            cutter.add(rows)
    cutter.finish()
    return taken(cutter)


def extents(disk: bytes, holes: int) -> list[Extent]:
    """Return one DATA extent after the other, with holes where zero blocks are."""
    chance = random.Random(holes)
    found: list[Extent] = []
    for at in range(0, len(disk), BLOCK):
        length = min(BLOCK, len(disk) - at)
        if not any(disk[at : at + length]) and chance.randrange(100) < holes:
            found.append(Extent(at, length, ExtentKind.HOLE))
        else:
            found.append(Extent(at, length, ExtentKind.DATA, 0, 0, at, length))
    return found


def made(seed: int, parts: list[tuple[str, int]]) -> bytes:
    """Return a disk of parts: random bytes, zeros, a pattern in which nothing is cut, or words."""
    chance = random.Random(seed)
    made = bytearray()
    for kind, length in parts:
        if kind == "random":
            made += chance.randbytes(length)
        elif kind == "zeros":
            made += bytes(length)
        elif kind == "pattern":
            made += (chance.randbytes(3) * (length // 3 + 1))[:length]
        else:
            words = [chance.randbytes(chance.randrange(2, 9)) for _ in range(50)]
            part = bytearray()
            while len(part) < length:
                part += chance.choice(words)
            made += part[:length]
    return bytes(made)


LENGTHS = st.one_of(
    st.integers(1, 40 * KIB), st.integers(1, 40).map(lambda blocks: blocks * BLOCK), st.integers(1, 100_000)
)
PARTS = st.lists(st.tuples(st.sampled_from(["random", "zeros", "pattern", "words"]), LENGTHS), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)  # the oracle is slow
@given(parts=PARTS, seed=st.integers(0, 1 << 32), window_bits=st.integers(16, 19), holes=st.sampled_from([0, 50, 100]),
       threads=st.integers(1, 2), slice_windows=st.integers(1, 4))  # fmt: skip
def test_chunks_match_oracle(
    parts: list[tuple[str, int]], seed: int, window_bits: int, holes: int, threads: int, slice_windows: int
) -> None:
    disk = made(seed, parts)
    averages = (4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB)
    found = cut(disk, 1 << window_bits, averages=averages, holes=holes, threads=threads, slice_windows=slice_windows)
    pieces = oracle.pieces(disk)
    for average, chunks in zip(averages, found, strict=True):
        assert chunks == oracle.chunks(pieces, average), average


@pytest.mark.parametrize("edge", [-100, -33, -1, 0, 1, 40, 96, 100])
@pytest.mark.parametrize("zeros", [BLOCK, 3 * BLOCK, 4 * BLOCK, 5 * BLOCK])
def test_zeros_at_the_edge_of_a_window(edge: int, zeros: int) -> None:
    for start in (64 * KIB - zeros, 64 * KIB - BLOCK, 64 * KIB, 64 * KIB + BLOCK):
        disk = made(edge, [("random", start + edge), ("zeros", zeros), ("random", 80 * KIB)])
        pieces = oracle.pieces(disk)
        expected = [oracle.chunks(pieces, average) for average in AVERAGES[:3]]
        for holes in (0, 100):
            assert cut(disk, 64 * KIB, averages=AVERAGES[:3], holes=holes) == expected


def test_chunks_cover_what_is_not_a_gap() -> None:
    disk = made(5, [("random", 3 * MIB), ("zeros", 2 * MIB), ("words", 5 * MIB), ("pattern", MIB), ("random", 2 * MIB)])
    for average, chunks in zip(AVERAGES, cut(disk, 4 * MIB), strict=True):
        at = 0
        for offset, length, _ in chunks:
            assert not any(disk[at:offset])
            assert offset == at or offset - at >= max(average // 4, 4 * BLOCK)
            assert 0 < length <= 8 * average
            at = offset + length
        assert at == len(disk)


def test_average_is_about_what_was_asked_for() -> None:
    disk = random.Random(6).randbytes(48 * MIB)
    for average, chunks in zip(AVERAGES, cut(disk, 4 * MIB, slice_windows=32), strict=True):
        if average <= 256 * KIB:
            assert len(disk) / len(chunks) == pytest.approx(average * 1.05, rel=0.15)


def test_moved_content_is_found_again() -> None:
    """What fixed chunks cannot: bytes put in front cost about one chunk."""
    disk = random.Random(7).randbytes(6 * MIB)
    before, behind = (cut(one, MIB, averages=(16 * KIB,))[0] for one in (disk, b"some bytes" + disk))
    again = {digest for _, _, digest in before} & {digest for _, _, digest in behind}
    assert len(again) >= len(before) - 3


def test_chunks_are_frozen() -> None:
    """Golden values: a change of these un-deduplicates what was ever cut."""
    disk = made(8, [("random", 700_000), ("zeros", 70_000), ("words", 900_000), ("pattern", 50_000)])
    found = cut(disk, 256 * KIB)
    assert [len(chunks) for chunks in found] == GOLDEN_COUNTS
    assert [offset for offset, _, _ in found[4]] == GOLDEN_OFFSETS
    assert hashlib.sha256(repr(found).encode()).hexdigest() == GOLDEN_SHA256


def test_empty_disks_have_no_chunks() -> None:
    cutter = Cutter((BLOCK,))
    cutter.add(PieceRows(3))
    cutter.finish()
    cutter.finish()
    assert taken(cutter) == [[]]
    assert cut(bytes(200 * KIB), 64 * KIB, averages=(BLOCK,)) == [[]]


def test_arguments_that_do_not_fit_are_refused() -> None:
    for averages in ((), (8192, 4096), (4096, 4096), (5000,), (2048,), (8 << 20,), (0,), (-4096,)):
        with pytest.raises(ValueError, match="averages"):
            Cutter(averages)
    with pytest.raises(ValueError, match="pieces are cut"):
        check_window(Window(32 * KIB, BLOCK))
    with pytest.raises(ValueError, match="pieces are cut"):
        PieceRows(1).note_window(0, Window(64 * KIB, 8 * KIB))
    rows = PieceRows(1)
    plan = Plan(pack_batch([Extent(0, BLOCK, ExtentKind.DATA, 0, 0, 0, BLOCK)]), 64 * KIB, DECODED_SIZE_MAX)
    window = Window(64 * KIB, BLOCK)
    with opened([b"x" * BLOCK]) as fds:
        window.load(plan, 0, array("i", fds))
        with pytest.raises(ValueError, match="do not fit"):
            Survey(plan, fds, memoryview(bytearray(128)).cast("Q", (1, 16)), 0, PieceRows(2))
    with pytest.raises(IndexError):
        rows.note_window(1, window)
    rows.note_window(0, window)
    with pytest.raises(ValueError, match="already"):
        rows.note_window(0, window)
    cutter = Cutter((BLOCK,))
    cutter.add(rows)
    with pytest.raises(ValueError, match="not behind"):
        cutter.add(rows)
    with pytest.raises(IndexError):
        cutter.take(1)
    cutter.finish()
    with pytest.raises(ValueError, match="ended"):
        cutter.add(PieceRows(1))
    assert [length for _, length, _ in taken(cutter)[0]] == [BLOCK]
