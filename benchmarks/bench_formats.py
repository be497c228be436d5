"""Compressed images: analysis beside qemu-img, and beside the decoder alone, which bounds it; tables beside Python."""

from __future__ import annotations

import ctypes
import itertools
import os
import struct
import subprocess
import sys
from array import array
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path

import pytest

from benchmarks import inputs
from benchmarks.beside import THREADS, Beside, Goal, on_threads
from benchmarks.conftest import read_anew
from dataplane.analysis.sweeping import sweep
from dataplane.engine.batches import BatchBuilder
from dataplane.engine.block_map import add_vdi_blocks, add_vhd_sectors, add_vhdx_blocks
from dataplane.engine.cluster_map import ClusterMap
from dataplane.engine.grain_map import GrainMap
from dataplane.engine.table import DigestTable
from dataplane.extent import ExtentCodec, unpack_batch
from dataplane.formats.probe import open_source
from dataplane.formats.tables import new_rows
from dataplane.ingest.progress import Progress
from dataplane.limits import CHUNK_SIZE_DEFAULT, MIB

# format, how it is compressed, options of qemu-img, and how many times as fast as qemu-img is asked for
IMAGES: dict[str, tuple[str, str | None, dict[str, str], float]] = {
    "zlib-qcow2": ("qcow2", "zlib", {}, 10),
    "zstd-qcow2": ("qcow2", "zstd", {}, 4),
    "stream-vmdk": ("vmdk", None, {"subformat": "streamOptimized"}, 7),
}

CLUSTERS_AT_ONCE = 16  # that a thread of the bare decoder claims


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest, disk: Path) -> tuple[str, Path]:
    """A compressed image of the disk in the page cache."""
    format, compression, options, _ = IMAGES[request.param]
    path = inputs.corpus_converted(disk, format, compression=compression, **options)
    read_anew(path)
    return request.param, path


def test_formats_measure(beside: Beside, image: tuple[str, Path], tmp_path: Path) -> None:
    """Whole processes. Both decode everything; qemu-img also writes what it decoded, into a sparse file."""
    name, path = image
    format, _, _, times = IMAGES[name]
    options = ["--codec", "none", "--progress", "none", "--json"]
    measure = [sys.executable, "-m", "dataplane", "measure", *options, str(path)]
    convert = ["qemu-img", "convert", "-f", format, "-O", "raw", str(path), str(tmp_path / "raw")]
    # An installed program has its byte code; without it every start would compile it again.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    beside(
        lambda: subprocess.run(measure, stdout=subprocess.DEVNULL, env=environment, check=True),
        lambda: subprocess.run(convert, check=True),
        before=lambda: (tmp_path / "raw").unlink(missing_ok=True),
        named="qemu-img convert to raw", size=decoded_size(path), rounds=5, elsewhere=True,
        goal=Goal(f"analysis of {name}, whole process, times as fast as qemu-img convert", "at least", times),
    )  # fmt: skip


def test_formats_decode(beside: Beside, image: tuple[str, Path]) -> None:
    """What bounds the analysis: the library that decodes, alone, over the same clusters on as many threads."""
    alone = BareDecoding(image[1])
    beside(lambda: analyse(image[1]), alone, named="the decoder alone, 2 threads", size=alone.size, rounds=5)


def decoded_size(path: Path) -> int:
    with open_source(path) as source:
        return sum(row.length for batch in source.extents() for row in unpack_batch(batch) if row.source_length)


def analyse(path: Path) -> None:
    with open_source(path) as source:
        sweep(
            source, DigestTable(16),
            chunk_size=CHUNK_SIZE_DEFAULT, key=None, threads=THREADS, progress=Progress(), cancelled=None,
        )  # fmt: skip


class BareDecoding:
    """Every compressed cluster of an image, decoded from memory into a place that stays in the cache, alone."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        start = ctypes.cast(ctypes.c_char_p(self._content), ctypes.c_void_p).value or 0
        with open_source(path) as source:
            packed = [row for batch in source.extents() for row in unpack_batch(batch) if row.codec]
        self._clusters = [(start + row.source_offset, row.source_length, row.decoded_length) for row in packed]
        self.size = sum(length for _, _, length in self._clusters)
        self._codec = packed[0].codec

    def __call__(self) -> None:
        """Decode everything once."""
        counter = itertools.count(0, CLUSTERS_AT_ONCE)

        def work(_: int) -> None:
            decode, target = decoder_of(self._codec), ctypes.create_string_buffer(4 * MIB)
            while (first := next(counter)) < len(self._clusters):
                for place, length, decoded_length in self._clusters[first : first + CLUSTERS_AT_ONCE]:
                    assert decode(place, length, target, decoded_length) == decoded_length

        on_threads(work)


def decoder_of(codec: int) -> Callable[[int, int, object, int], int]:
    """Return a function of the library itself; it needs no lock of Python's while it runs."""
    size = ctypes.c_size_t
    if codec == ExtentCodec.ZSTD:
        zstd = ctypes.CDLL(find_library("zstd"))
        zstd.ZSTD_createDCtx.restype = ctypes.c_void_p
        zstd.ZSTD_findFrameCompressedSize.restype = zstd.ZSTD_decompressDCtx.restype = size
        zstd.ZSTD_findFrameCompressedSize.argtypes = [ctypes.c_void_p, size]
        zstd.ZSTD_decompressDCtx.argtypes = [ctypes.c_void_p, ctypes.c_void_p, size, ctypes.c_void_p, size]
        context = zstd.ZSTD_createDCtx()

        def unpack(place: int, length: int, target: object, room: int) -> int:
            frame = zstd.ZSTD_findFrameCompressedSize(place, length)
            return int(zstd.ZSTD_decompressDCtx(context, target, room, place, frame))

        return unpack
    deflate = ctypes.CDLL(find_library("deflate"))
    deflate.libdeflate_alloc_decompressor.restype = ctypes.c_void_p
    wrapper = "zlib" if codec == ExtentCodec.ZLIB else "deflate"
    inflate = getattr(deflate, f"libdeflate_{wrapper}_decompress_ex")
    pointer = ctypes.c_void_p
    inflate.argtypes = [pointer, pointer, size, pointer, size, pointer, pointer]
    decompressor = deflate.libdeflate_alloc_decompressor()
    used, got = size(), size()

    def inflated(place: int, length: int, target: object, room: int) -> int:
        assert inflate(decompressor, place, length, target, room, ctypes.byref(used), ctypes.byref(got)) == 0
        return got.value

    return inflated


# -------------------------------------------------------------------------------------------------- tables alone
ENTRIES = 1 << 16


def add_clusters(rows: BatchBuilder, table: bytes) -> None:
    """qcow2: each cluster is an extent of its own."""
    ClusterMap(
        rows, cluster_bits=16, virtual_size=ENTRIES << 16, data_size=1 << 50, reader=0, codec=1, allows_zero=True,
        extended=False, is_external=False, elsewhere="",
    ).add(array("q", [0]), table)  # fmt: skip


def add_grains(rows: BatchBuilder, table: bytes) -> None:
    """VMDK."""
    grains = GrainMap(
        rows, base=0, size=ENTRIES << 16, grain_size=1 << 16, table_entries=512, reader=0, file_size=1 << 50,
        has_zero_grains=True, room_min=0,
    )  # fmt: skip
    grains.add_plain(grains.grains(array("q", range(ENTRIES // 512)), table))


def add_vdi(rows: BatchBuilder, table: bytes) -> None:
    add_vdi_blocks(rows, table, 0, block_size=MIB, disk_size=ENTRIES * MIB, data_offset=0, file_size=1 << 50)


def add_vhdx(rows: BatchBuilder, table: bytes) -> None:
    add_vhdx_blocks(
        rows, table, 0, block_size=MIB, chunk_blocks=1 << 20, disk_size=ENTRIES * MIB, file_size=1 << 50
    )  # fmt: skip


def add_vhd(rows: BatchBuilder, table: bytes) -> None:
    """VHD: bits of sectors, of which every other byte is set."""
    add_vhd_sectors(rows, table, array("q", [0]), array("q", [MIB]), sectors=ENTRIES, disk_size=ENTRIES * 512)


TABLES = {
    "qcow2": (add_clusters, struct.pack(f">{ENTRIES}Q", *(at << 17 | 1 << 63 for at in range(1, ENTRIES + 1)))),
    "vmdk": (add_grains, struct.pack(f"<{ENTRIES}I", *(at << 8 for at in range(1, ENTRIES + 1)))),
    "vdi": (add_vdi, struct.pack(f"<{ENTRIES}I", *range(0, 2 * ENTRIES, 2))),
    "vhdx": (add_vhdx, struct.pack(f"<{ENTRIES}Q", *(at << 21 | 6 for at in range(1, ENTRIES + 1)))),
    "vhd": (add_vhd, b"\xff\x00" * (ENTRIES // 16)),
}


@pytest.mark.parametrize("name", TABLES)
def test_formats_tables(beside: Beside, name: str) -> None:
    """The size is that of the table, of 65,536 entries."""
    add, table = TABLES[name]

    def decode() -> None:
        rows = new_rows()
        add(rows, table)
        rows.take(ENTRIES * MIB, last=True)

    words = table.ljust(-(-len(table) // 8) * 8, b"\0")
    beside(
        decode, lambda: [entry & 0xFFFF for (entry,) in struct.iter_unpack("<Q", words)],
        named="a loop of Python over its 64-bit words", size=len(table), rounds=9,
    )  # fmt: skip
