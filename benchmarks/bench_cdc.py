"""Content-defined chunks: the search beside scalar FastCDC, cutting and digesting beside the search alone, and tune."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_analysis import BareReading
from benchmarks.bench_tune import all_sizes
from benchmarks.beside import THREADS, Beside, Goal
from benchmarks.inputs import MIB
from dataplane.analysis.block_log import BLOCK_SIZE, joined, survey
from dataplane.analysis.content_levels import ContentLevels
from dataplane.analysis.levels import exact_levels
from dataplane.analysis.tuning import CHUNK_SIZES
from dataplane.engine import gear
from dataplane.engine.cutter import Cutter
from dataplane.engine.pieces import PieceRows
from dataplane.engine.plan import Plan
from dataplane.engine.window import Window
from dataplane.extent import WINDOW_SIZE, Extent, ExtentKind, pack_batch
from dataplane.formats.probe import open_source
from dataplane.ingest.progress import Progress
from dataplane.limits import DECODED_SIZE_MAX

ROOT = Path(__file__).resolve().parents[1]
SEARCH_GOAL = Goal("the gear search beside FastCDC in C, which skips a quarter of the bytes", "at least", 3)


@pytest.fixture(scope="module")
def fastcdc(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], int]:
    """FastCDC in C, compiled as the kernels are."""
    library = tmp_path_factory.mktemp("fastcdc") / "fastcdc.so"
    source = ROOT / "benchmarks" / "fastcdc.c"
    subprocess.run(
        ["cc", "-O3", "-funroll-loops", "-shared", "-fPIC", f"-I{ROOT / 'ext'}", str(source), "-o", str(library)],
        check=True,
    )
    function = ctypes.CDLL(str(library)).fastcdc
    function.argtypes, function.restype = (ctypes.c_char_p, ctypes.c_size_t), ctypes.c_size_t
    return lambda data: int(function(data, len(data)))


@pytest.mark.parametrize("variant", gear.variants())
def test_cdc_search(beside: Beside, fastcdc: Callable[[bytes], int], variant: str) -> None:
    """In one thread, on random bytes that a second-level cache holds."""
    data = np.random.default_rng(1).bytes(MIB // 2)
    rounds = 32
    before = gear.chosen_variant()
    gear.choose_variant(variant)
    beside(
        lambda: [gear.find(data) for _ in range(rounds)],
        lambda: [fastcdc(data) for _ in range(rounds)],
        named="scalar FastCDC", size=rounds * len(data), goal=SEARCH_GOAL if variant != "baseline" else None,
    )  # fmt: skip
    gear.choose_variant(before)


def test_cdc_chunk_and_digest(beside: Beside) -> None:
    """All averages, in one thread: pieces found and digested, chunks cut; beside the same search alone."""
    data = np.random.default_rng(2).bytes(WINDOW_SIZE)
    plan = Plan(pack_batch([Extent(0, len(data), ExtentKind.DATA, 0, 0, 0, len(data))]), WINDOW_SIZE, DECODED_SIZE_MAX)
    window = Window(WINDOW_SIZE, BLOCK_SIZE)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        window.load(plan, 0, array("i", [file.fileno()]))

    def chunk_and_digest() -> None:
        for _ in range(8):
            rows = PieceRows(1)
            rows.note_window(0, window)
            cutter = Cutter(CHUNK_SIZES)
            cutter.add(rows)
            cutter.finish()

    beside(
        chunk_and_digest,
        lambda: [gear.find(data) for _ in range(8)],
        named="the search alone", size=8 * len(data),
        goal=None,  # 8 GB/s a core were asked for with AVX-512
    )  # fmt: skip


def all_sizes_and_content(path: Path) -> int:
    """Count the chunks of every size, fixed and content-defined, as ``tune --cdc`` does before it tries codecs."""
    with open_source(str(path)) as source:
        content = ContentLevels(1, CHUNK_SIZES, 1, 0)
        cutter = Cutter(CHUNK_SIZES)
        slices = []
        for part in survey(source, threads=THREADS, progress=Progress(), cancelled=None, cutter=cutter):
            content.add(0, cutter)
            slices.append(part)
        cutter.finish()
        content.add(0, cutter)
        fixed = exact_levels([joined(slices)], [source.virtual_size], CHUNK_SIZES, 0)
        found = sum(level.counts.total_distinct for level in fixed)
        return found + sum(round(level.distinct.value) for level in content.levels(0, 0))


def test_tune_with_content_beside_fixed_sizes(beside: Beside, disk: Path) -> None:
    reading = BareReading(disk)
    size = reading.size
    reading.close()
    beside(lambda: all_sizes_and_content(disk), lambda: all_sizes(disk), named="eleven fixed sizes", size=size)
