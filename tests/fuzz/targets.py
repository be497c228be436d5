"""The parsers that are fuzzed: for each one what runs on an input, and the valid images to start from."""

from __future__ import annotations

import atexit
import functools
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dataplane.errors import SourceError, UsageError
from dataplane.formats.chain import ChainSource
from dataplane.formats.known import KNOWN, Extras, recognise
from dataplane.formats.raw import RawSource
from tests.formats.qcow2_writer import EXTENDED_L2, EXTERNAL_DATA, Image, Snapshot
from tests.fuzz.contract import MemoryReader, check_source
from tests.fuzz.vhdx import IMAGE_SIZE_MAX, PIECE_SIZE, file_of_pages, own_images, pages_of, remembering_sums, sealed

INPUT_SIZE_MAX = 4 << 20


@dataclass(frozen=True)
class Target:
    """``run`` returns whether it could read an input; any exception is a defect. ``seeds`` are valid images.

    Inputs made of equal pieces, each with fields at its beginning, have a ``piece_size`` in bytes.
    """

    run: Callable[[bytes], bool]
    seeds: Callable[[], Iterator[bytes]]
    piece_size: int | None = None


def run_probe(content: bytes) -> bool:
    """Tell what the input is, by its first and last bytes, and read it as that."""
    reader = MemoryReader(content)
    try:
        check_source(recognise(reader).open(reader, Extras()))
    except SourceError:
        return False
    return True


def run_qcow2(content: bytes) -> bool:
    """Read the active disk, a snapshot, what lies in a data file, and the chain over a small base."""
    reader = MemoryReader(content)
    data_file = MemoryReader(b"d" * 65536, "data file")
    opened = []
    for extras in (Extras(), Extras(data_file=data_file), Extras(snapshot="1")):
        with suppress(SourceError, UsageError):
            opened.append(KNOWN["qcow2"].open(reader, extras))
            check_source(opened[-1])
    if opened:
        with suppress(SourceError):
            check_source(ChainSource([opened[0], opened[-1], RawSource(MemoryReader(b"b" * 3000, "base"))]))
    return bool(opened)


def run_vmdk(content: bytes) -> bool:
    """Read the input as an image of its own, and as a descriptor that may name files in a folder."""
    read = False
    for extras in (Extras(), Extras(extent_dir=extent_folder())):
        with suppress(SourceError), KNOWN["vmdk"].open(MemoryReader(content), extras) as source:
            check_source(source)
            read = True
    return read


@functools.cache
def extent_folder() -> Path:
    """Return a folder with a flat and a sparse extent, removed when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="extents-")
    atexit.register(folder.cleanup)
    path = Path(folder.name)
    (path / "flat").write_bytes(b"flat" * 4096)
    (path / "sparse").write_bytes(next(seeds_of_qemu("vmdk")()))
    return path


def seeds_of_vmdk() -> Iterator[bytes]:
    """Yield images of qemu-img, and descriptors of disks made of several files."""
    yield from seeds_of_qemu("vmdk")()
    head = b"# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="
    yield head + b'"monolithicFlat"\nRW 32 FLAT "flat" 0\n'
    yield head + b'"twoGbMaxExtentFlat"\nRW 16 FLAT "flat" 0\nRW 8 ZERO\nRW 8 FLAT "flat" 16\n'
    yield head + b'"twoGbMaxExtentSparse"\nRW 514 SPARSE "sparse"\nddb.adapterType = "ide"\n'


def run_vhdx(content: bytes) -> bool:
    """Read the image that the pages of the input make, as it is, and where that fails with its checksums put right."""
    file = file_of_pages(content)
    with remembering_sums():
        return run_format("vhdx")(file) or run_format("vhdx")(sealed(file))


def seeds_of_vhdx() -> Iterator[bytes]:
    """Yield images of qemu-img and of the tests' own writer, as pages."""
    for image in (*seeds_of_qemu("vhdx")(), *own_images()):
        yield pages_of(image)


def run_format(name: str) -> Callable[[bytes], bool]:
    """Return what reads an input as the format ``name``, whatever its magic says."""

    def run(content: bytes) -> bool:
        try:
            check_source(KNOWN[name].open(MemoryReader(content), Extras()))
        except SourceError:
            return False
        return True

    return run


def seeds_of_qcow2() -> Iterator[bytes]:
    """Yield images with every kind of cluster and feature, from the tests' own writer."""
    for version, bits, features in [(2, 9, 0), (3, 9, 0), (3, 12, 0), (3, 14, EXTENDED_L2)]:
        size = 1 << bits
        clusters: dict[int, str | tuple[str, bytes]] = {
            0: ("data", b"a" * size),
            1: ("packed", b"b" * size),
            70: ("data", b"c" * size),
        }
        if version == 3:
            clusters |= {2: "zero", 3: "zero-allocated"}
        if features:
            clusters[5] = ("parts", b".0aa" * 8)
        image = Image(80 * size - 100, version=version, cluster_bits=bits, clusters=clusters, incompatible=features)
        image.snapshots = [Snapshot(b"1", b"name", virtual_size=40 * size), Snapshot(b"2")]
        image.extensions = [(0x6803F857, bytes(96)), (0xE2792ACA, b"raw")] if version == 3 else []
        image.backing = b"base" if bits == 12 else b""
        yield image.write()
    yield Image(65536, cluster_bits=9, incompatible=EXTERNAL_DATA, l2_patch={0: 1 << 63, 3: 1 << 63 | 1536}).write()


def seeds_of_probe() -> Iterator[bytes]:
    """Yield what the probe has to tell apart: heads and footers of formats, wrappers and texts."""
    yield next(seeds_of_qcow2())
    for head in (b"KDMV", b"COWD", b"conectix", b"vhdxfile", b"QED\0", b"WithoutFreeSpace", b"\x1f\x8b\x08", b"PK\3\4"):
        yield head.ljust(1024, b"\0")
    yield bytes(64) + b"\x7f\x10\xda\xbe" + bytes(700)
    yield bytes(1024) + b"conectix" + bytes(504)
    yield b"# Disk DescriptorFile\nversion=1\nCID=fffffffe\n"
    yield b"<!doctype html><html>"
    yield b"not found\n" * 3


CONVERSIONS = {
    "vmdk": ("vmdk", ["subformat=monolithicSparse", "subformat=streamOptimized", "compat6=on"]),
    "vhd": ("vpc", ["subformat=dynamic,force_size=on", "subformat=fixed,force_size=on"]),
    "vhdx": ("vhdx", ["block_size=1M,log_size=1M"]),
    "vdi": ("vdi", ["static=off", "static=on"]),
}
"""Names of formats in qemu-img and the options of the images to start from."""


def seeds_of_qemu(name: str) -> Callable[[], Iterator[bytes]]:
    """Return what yields small images of the format ``name`` made by qemu-img."""

    def seeds() -> Iterator[bytes]:
        form, variants = CONVERSIONS[name]
        with tempfile.TemporaryDirectory() as folder:
            raw, made = Path(folder) / "raw", Path(folder) / "made"
            raw.write_bytes(b"head" * 128 + bytes(256 << 10) + b"tail" * 128)
            for options in variants:
                command: list[str | Path] = ["qemu-img", "convert", "-f", "raw", "-O", form, "-o", options, raw, made]
                subprocess.run(command, check=True, capture_output=True)
                if made.stat().st_size <= IMAGE_SIZE_MAX:
                    yield made.read_bytes()

    return seeds


TARGETS = {
    "probe": Target(run_probe, seeds_of_probe),
    "qcow2": Target(run_qcow2, seeds_of_qcow2),
    "vmdk": Target(run_vmdk, seeds_of_vmdk),
    "vhd": Target(run_format("vhd"), seeds_of_qemu("vhd")),
    "vhdx": Target(run_vhdx, seeds_of_vhdx, PIECE_SIZE),
    "vdi": Target(run_format("vdi"), seeds_of_qemu("vdi")),
}
