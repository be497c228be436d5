"""What is refused is refused soon, in little memory and in one line: the command itself, measured from inside."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.formats import vhdx_writer
from tests.formats.helpers import convert, run
from tests.formats.qcow2_writer import Image
from tests.formats.test_hostile_images import ATTACKS, Attack, descriptor
from tests.formats.vhd_writer import Vhd

MIB = 1 << 20
SECONDS_MAX = 10
"""Of processor time: a busy machine is not the image's fault."""
MEMORY_MAX = 256 * MIB

# The high-water mark that the kernel keeps for a parent's use counts the parent's own pages before exec as well.
PROGRAM = """
import re, sys, time
from dataplane.cli.main import main
code = main(sys.argv[1:])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(int(peak) * 1024, time.process_time())
sys.exit(code)
"""


def measured(path: Path, *options: str) -> str:
    """Return the line that refuses an image, after asserting the bounds."""
    command = [sys.executable, "-c", PROGRAM, "measure", "--codec", "none", "--progress", "none", *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20 * SECONDS_MAX, check=False)
    assert done.returncode == 4, done.stdout + done.stderr
    memory, seconds = done.stdout.split()
    assert int(memory) < MEMORY_MAX
    assert float(seconds) < SECONDS_MAX
    assert done.stderr.count("\n") == 1
    return done.stderr


def put(path: Path, *pieces: tuple[int, bytes], size: int = 0) -> Path:
    """Write pieces at their offsets, and nothing between them; a file that is there is changed."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        for at, piece in pieces:
            os.pwrite(file.fileno(), piece, at)
        if size:
            file.truncate(size)
    return path


def qcow2_full_level_one(path: Path) -> Path:
    """An L1 table of 32 MiB whose last entry alone is wrong."""
    entries = (32 * MIB) // 8
    image = Image(entries * 512 * 64, cluster_bits=9, l1_entries=entries, l1_offset=1024)
    return put(path, (0, image._header(entries, 1024)), (1024 + 32 * MIB - 8, struct.pack(">Q", 7)))


def qcow2_damaged_streams(path: Path) -> Path:
    """Compressed clusters whose streams are noise."""
    (path.parent / "plain").write_bytes(os.urandom(MIB).hex().encode())
    convert(path.parent / "plain", path, "-c", form="raw")
    noise = b"\xff\x5a" * 4000
    return put(path, *((at, noise) for at in range(5 * 65536, path.stat().st_size - 8000, 4096)))


def vhdx_of_64_tib(path: Path) -> Path:
    """A block allocation table of 512 MiB whose last entry alone is wrong."""
    image = vhdx_writer.Vhdx(64 << 40, bat_size=513 * MIB).write(path)
    last = (64 << 20) - 1
    return put(image, (2 * MIB + 8 * (last + last // 4096), struct.pack("<Q", 7)))


def vhd_of_2_tib(path: Path) -> Path:
    """A block table of 4 MiB whose last entry alone is wrong."""
    run("qemu-img", "create", "-q", "-f", "vpc", path, "2040G")
    return put(path, (1536 + 4 * (2040 * 512 - 1), b"\x7f\xff\xff\xff"))


def vdi_of_equal_blocks(path: Path) -> Path:
    """A block map of 512 MiB in which every block is the first one."""
    run("qemu-img", "create", "-q", "-f", "vdi", path, "1G")
    blocks = 128 << 20
    fields = (0x170, struct.pack("<QIIII", blocks << 20, 1 << 20, 0, blocks, blocks))
    block = (MIB + 512 * MIB, b"\1" * MIB)
    return put(path, (0x158, struct.pack("<I", MIB + 512 * MIB)), fields, (512, bytes(4096)), block, size=1 << 30)


def vdi_of_holes(path: Path) -> Path:
    """A disk of 1 TiB in a file of a few MiB: a million blocks in one hole, and a last one behind the end."""
    run("qemu-img", "create", "-q", "-f", "vdi", path, "1T")
    count = 1 << 20
    names = array("I", [*range(count - 1), count])
    return put(path, (512, names.tobytes()), size=(5 << 20) + (count << 20))


def vhd_of_holes(path: Path) -> Path:
    """Four million blocks whose bitmaps lie in a hole, and a last one behind the end."""
    size, block_size = 2040 << 30, 512 << 10
    count = size // block_size
    image = Vhd(size, block_size=block_size, entry={count - 1: 0xFFFF_FFF0}, geometry=(65535, 16, 255)).write()
    names = array("I", [(17 << 11) + number * 1025 for number in range(count - 1)])
    names.byteswap()
    end = (count * 1025 << 9) + (18 << 20)
    return put(path, (0, image), (1536, names.tobytes()), (end, image[:512]))


def qcow2_of_tables_in_holes(path: Path) -> Path:
    """An L1 table of a million L2 tables that lie in a hole, and a last one behind the end."""
    entries = 1 << 20
    image = Image(entries << 29, l1_entries=entries, l1_offset=65536)
    names = array("Q", [(number + 1024) << 16 for number in range(entries - 1)] + [1 << 50])
    names.byteswap()
    return put(path, (0, image._header(entries, 65536)), (65536, names.tobytes()), size=(entries + 1024) << 16)


def qcow2_of_one_table(path: Path) -> Path:
    """A million names of one L2 table, all of whose clusters lie in a hole."""
    entries = 1 << 20
    image = Image(entries << 29, l1_entries=entries, l1_offset=65536)
    names = array("Q", [1024 << 16] * entries)
    clusters = array("Q", [(number + 2048) << 16 for number in range(8192)])
    names.byteswap()
    clusters.byteswap()
    tables = (65536, names.tobytes()), (1024 << 16, clusters.tobytes())
    return put(path, (0, image._header(entries, 65536)), *tables, size=1 << 40)


def vmdk_of_tables_in_holes(path: Path) -> Path:
    """A grain directory of 8 million tables that lie in a hole, and a last one behind the end."""
    image = vmdk_directory_of_32_mib(path)
    names = array("I", [(1 << 18) + 4 * number for number in range((8 << 20) - 1)] + [0xFFFF_FFFF])
    return put(image, (64 * 512, names.tobytes()), size=1 << 40)


def vmdk_directory_of_32_mib(path: Path) -> Path:
    """A grain directory of 8 million entries that all name one table."""
    capacity = (8 << 20) * 512 * 128
    header = struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", 1, 1, capacity, 128, 1, 20, 512, 0, 64, 128, 0, b"\n \r\n", 0)
    text = descriptor('RW 1 SPARSE "x"', "monolithicSparse").ljust(20 * 512, b"\0")
    names = struct.pack("<I", 1 << 18) * (8 << 20)
    return put(path, (0, header), (512, text), (64 * 512, names), (1 << 27, bytes(MIB)), size=1 << 28)


def vmdk_of_many_extents(path: Path) -> Path:
    """A descriptor of more extents than are read."""
    path.write_bytes(descriptor("RW 8 ZERO\n" * 10_001, "custom"))
    return path


GIANTS: list[tuple[Callable[[Path], Path], str]] = [
    (qcow2_full_level_one, "L1 entry 4194303 "),
    (qcow2_damaged_streams, ""),
    (vhdx_of_64_tib, "has a state that"),
    (vhd_of_2_tib, "not in the file"),
    (vdi_of_equal_blocks, "overlap"),
    (vmdk_directory_of_32_mib, "overlap"),
    (vdi_of_holes, "not in the file"),
    (vhd_of_holes, "not in the file"),
    (qcow2_of_tables_in_holes, "not in the file"),
    (qcow2_of_one_table, "overlap"),
    (vmdk_of_tables_in_holes, "not in the file"),
    (vmdk_of_many_extents, "10000"),
]


@pytest.mark.parametrize(("giant", "words"), GIANTS, ids=[giant.__name__ for giant, _ in GIANTS])
def test_giant_is_refused_within_the_bounds(tmp_path: Path, giant: Callable[[Path], Path], words: str) -> None:
    path = giant(tmp_path / "disk")
    options = ["--extent-dir", str(tmp_path)] if giant is vmdk_of_many_extents else []
    assert words in measured(path, *options)


@pytest.mark.parametrize("attack", ATTACKS, ids=[f"{attack.name} {attack.tries}" for attack in ATTACKS])
def test_attack_is_refused_within_the_bounds(tmp_path: Path, attack: Attack) -> None:
    path = tmp_path / "disk"
    path.write_bytes(attack.file())
    snapshot = attack.snapshot
    measured(path, *(["--snapshot", snapshot] if snapshot else []))
