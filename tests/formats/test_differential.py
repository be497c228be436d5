"""Mutants of VMDK, VHD, VHDX and VDI images: what both qemu-img and this library accept has one content."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.errors import SourceError
from dataplane.extent import Extent, ExtentKind
from dataplane.formats.probe import open_source
from tests.formats import vhdx_writer
from tests.formats.vhd_writer import Vdi, Vhd
from tests.formats.vhd_writer import sealed as vhd_sealed
from tests.formats.vhdx_writer import Vhdx
from tests.formats.vmdk_writer import ZERO_GRAIN, Sparse
from tests.fuzz import vhdx
from tests.oracles.extents import checked_extents, read_all

COMPARED_SIZE_MAX = 64 << 20
MIB = 1 << 20
SECTOR = 512

Change = tuple[int, int, str, int]
"""A field of an image: where it is, its width, its order, and what makes a likely number of it greater by one."""


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def vmdk_images() -> list[tuple[bytes, list[Change]]]:
    grains: dict[int, bytes | str] = {0: noise(4096), 1: ZERO_GRAIN, 3: b"text" * 1024, 9: noise(4096)}
    changes: list[Change] = [(4, 4, "little", 1), (8, 4, "little", 4), (12, 8, "little", 8), (20, 8, "little", 8)]
    changes += [(44, 4, "little", 16), (48, 8, "little", 1), (56, 8, "little", 1), (64, 8, "little", 8)]
    made = []
    for more in ({}, {"redundant": False}, {"packed": True, "version": 3}, {"packed": True, "footer": True}):
        settings = {"capacity": 80, "grains": grains, "grain": 8, "table_entries": 16, "flags": 5, **more}
        whole = Sparse(**settings).write()  # type: ignore[arg-type]
        # Directories and tables lie between the descriptor and the grains.
        made.append((whole, changes + [(at, 4, "little", 8) for at in range(21 * SECTOR, 25 * SECTOR, 4)]))
    return made


def vhd_images() -> list[tuple[bytes, list[Change]]]:
    size = 9 * 4096
    dynamic = Vhd(size, {0: noise(4096), 3: b"b" * 4096, 8: noise(4096)}, block_size=4096).write()
    fixed = Vhd(size, {0: noise(size)}, kind=2).write()
    table: list[Change] = [(1536 + 4 * index, 4, "big", 9) for index in range(9)]
    header: list[Change] = [(512 + 16, 8, "big", 512), (512 + 28, 4, "big", 1), (512 + 32, 4, "big", 4096)]
    footer: list[Change] = [(len(fixed) - 512 + at, width, "big", 512) for at, width in ((28, 4), (40, 8), (48, 8))]
    return [(dynamic, table * 2 + header), (fixed, footer)]


def vdi_images() -> list[tuple[bytes, list[Change]]]:
    whole = Vdi(9 * 4096 - 512, {0: noise(4096), 4: b"b" * 4096, 1: (1 << 32) - 2, 8: noise(4096)}, 4096).write()
    whole2 = Vdi(3 * MIB, {0: noise(MIB), 2: b"b" * MIB}).write()
    fields: list[Change] = [(at, 4, "little", 1) for at in (0x4C, 0x154, 0x158, 0x168, 0x178, 0x17C, 0x180, 0x184)]
    fields.append((0x170, 8, "little", 512))
    return [(image, fields + 3 * [(512 + 4 * at, 4, "little", 1) for at in range(9)]) for image in (whole, whole2)]


def vhdx_images(tmp_path: Path) -> list[tuple[bytes, list[Change]]]:
    blocks: dict[int, bytes | int] = {0: b"x" * MIB, 1: vhdx_writer.ZERO, 4: noise(MIB), 3: vhdx_writer.UNMAPPED}
    whole = Vhdx(5 * MIB, blocks).write(tmp_path / "base").read_bytes()
    bat: list[Change] = [(2 * MIB + 8 * index, 8, "little", MIB) for index in range(5)]
    metadata: list[Change] = [(MIB + 65536 + at, 4, "little", 512) for at in (0, 4, 8, 12, 16, 20)]
    entries: list[Change] = [(MIB + 32 + 32 * item + at, 4, "little", 1) for item in range(5) for at in (0, 16, 20, 24)]
    regions: list[Change] = [(192 * 1024 + at, 4, "little", MIB) for at in (8, 32, 40, 44, 64, 72, 76)]
    headers: list[Change] = [(at, 4, "little", 1) for at in (64 * 1024 + 8, 128 * 1024 + 8, 128 * 1024 + 66)]
    return [(whole, 4 * bat + metadata + entries + regions + headers)]


def mutant(draw: random.Random, whole: bytes, changes: list[Change]) -> bytes:
    """Return an image with one to three of its fields changed, or a byte, or its end cut off."""
    made = bytearray(whole)
    for _ in range(draw.randrange(1, 4)):
        if draw.random() < 0.08:
            del made[draw.randrange(len(made) * 3 // 4, len(made)) :]
            continue
        at, width, order, unit = draw.choice(changes)
        old = int.from_bytes(made[at : at + width], order)  # type: ignore[arg-type]
        new = draw.choice(
            [old + unit, old - unit, old ^ 1 << draw.randrange(8 * width), 0, 1, unit * draw.randrange(20), old + 1]
        )
        if at + width <= len(made):
            made[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
    return bytes(made)


def seal_vhd(file: bytes) -> bytes:
    """Return a VHD with the checksums of its footers and header put right."""
    made = bytearray(file)
    for at, size, sum_at in ((0, 512, 64), (512, 1024, 36), (len(made) - 512, 512, 64)):
        if 0 <= at <= len(made) - size and file[at : at + 8] in (b"conectix", b"cxsparse"):
            made[at : at + size] = vhd_sealed(bytes(made[at : at + size]), sum_at)
    return bytes(made)


def ours(path: Path, form: str) -> tuple[bytes, list[Extent]] | None:
    try:
        with open_source(path, format=form) as source:
            if source.virtual_size > COMPARED_SIZE_MAX:
                return None
            extents = checked_extents(source)
            return read_all(source), extents
    except SourceError:
        return None


def but_for_known_differences(form: str, disk: bytes, extents: list[Extent]) -> bytes:
    """Return a disk as qemu reads it with zeros where they are ours on purpose.

    qemu ignores the bits that say which sectors of a VHD are stored, and shows what lies behind a VDI whose size ends
    inside a sector.
    """
    made = bytearray(disk)
    for extent in extents:
        is_rest = extent is extents[-1] and extent.length < SECTOR
        if extent.kind == ExtentKind.ZERO and (form == "vhd" or (form == "vdi" and is_rest)):
            made[extent.offset : extent.offset + extent.length] = bytes(extent.length)
    return bytes(made[: len(disk)])


def qemus(path: Path, form: str) -> bytes | None:
    raw = path.with_suffix(".raw")
    raw.unlink(missing_ok=True)
    command: list[str | Path] = ["qemu-img", "convert", "-f", form, "-O", "raw", path, raw]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return None
    return raw.read_bytes() if done.returncode == 0 else None


def compare(tmp_path: Path, form: str, seeds: range) -> int:
    """Return how many mutants both accepted; their contents are asserted to be equal."""
    makers: dict[str, Callable[[], list[tuple[bytes, list[Change]]]]] = {
        "vmdk": vmdk_images, "vhd": vhd_images, "vdi": vdi_images, "vhdx": lambda: vhdx_images(tmp_path),
    }  # fmt: skip
    seals: dict[str, Callable[[bytes], bytes]] = {"vhd": seal_vhd, "vhdx": vhdx.sealed}
    images = makers[form]()
    accepted = 0
    for seed in seeds:
        draw = random.Random(seed)
        path = tmp_path / "disk"
        path.write_bytes(seals.get(form, bytes)(mutant(draw, *draw.choice(images))))
        with vhdx.remembering_sums():
            read = ours(path, form)
        theirs = qemus(path, "vpc" if form == "vhd" else form) if read is not None else None
        if read is None or theirs is None:
            continue
        accepted += 1
        mine, extents = read
        theirs = but_for_known_differences(form, theirs, extents)
        assert len(theirs) <= len(mine) < len(theirs) + SECTOR, f"mutant {seed}"
        assert mine[: len(theirs)] == theirs, f"mutant {seed}"
        assert not any(mine[len(theirs) :]), f"mutant {seed}"
    return accepted


@pytest.mark.parametrize("form", ["vmdk", "vhd", "vdi", "vhdx"])
def test_mutants_that_both_accept_are_equal(tmp_path: Path, form: str) -> None:
    assert compare(tmp_path, form, range(60)) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("form", ["vmdk", "vhd", "vdi", "vhdx"])
def test_many_mutants_that_both_accept_are_equal(tmp_path: Path, form: str) -> None:
    assert compare(tmp_path, form, range(1000, 2000)) >= 100
