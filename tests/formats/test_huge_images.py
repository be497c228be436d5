"""Disks of 8 TiB: measured in moments when they are empty, in bounded memory when they are full of tables."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from dataplane.analysis.measuring import measure
from dataplane.formats.probe import open_source
from dataplane.store.store import Store
from tests.formats.helpers import create, qemu_io
from tests.formats.qcow2_writer import Image

MIB = 1 << 20
TIB = 1 << 40
DISK_SIZE = 8 * TIB
MEMORY_MAX = 256 * MIB
MEMORY_PER_CHUNK = 64
CLUSTER_BITS = 18
PER_TABLE = (1 << CLUSTER_BITS) // 8

# Imports, and says how many chunks are new and the most memory it had. The mark of the kernel that counts is that of
# the process itself: the one kept for its parent counts the parent's own pages before exec as well.
PROGRAM = """
import re, sys
from dataplane.formats.probe import open_source
from dataplane.ingest.importing import import_image
from dataplane.store.store import Store
with Store.open(sys.argv[2]) as store, open_source(sys.argv[1]) as source:
    done = import_image(store, source, name="image", threads=2)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(done.sizes.virtual_size, done.sizes.distinct_chunks, int(peak) * 1024)
"""


def full_of_tables(path: Path) -> Path:
    """Write an image in whose 1,024 L2 tables of 256 KiB no two neighbours among 33 million entries are alike."""
    zeros = dict.fromkeys(range(1, PER_TABLE, 2), 1)
    tables = -(-DISK_SIZE // (PER_TABLE << CLUSTER_BITS))
    image = Image(DISK_SIZE, cluster_bits=CLUSTER_BITS, clusters={0: ("data", b"d" * 4096)}, l2_patch=zeros)
    behind = len(image.write()) >> CLUSTER_BITS
    image.l1_patch = {table: 1 << 63 | (behind + table) << CLUSTER_BITS for table in range(1, tables)}
    content = image.write()
    table = bytes(8) + content[3 << CLUSTER_BITS : 4 << CLUSTER_BITS][8:]
    with path.open("wb") as file:
        file.write(content)
        for _ in range(tables):
            file.write(table)
    return path


def test_sparse_disk_is_measured_in_moments(tmp_path: Path) -> None:
    """Maps of an empty disk take milliseconds, and so does the engine's walk over what they say."""
    path = create(tmp_path / "disk", DISK_SIZE)
    qemu_io(path, "write -P 1 33G 64k", "write -P 2 7T 1M")
    best_s = 99.0
    for _ in range(3):
        started = time.perf_counter()
        with open_source(path) as source:
            sizes = measure([source], codec="none").total
        best_s = min(best_s, time.perf_counter() - started)
    assert sizes.virtual_size == DISK_SIZE
    assert MIB < sizes.data_size <= 16 * MIB
    assert best_s < 2


def test_import_of_a_disk_full_of_tables_stays_within_its_memory(tmp_path: Path) -> None:
    path = full_of_tables(tmp_path / "disk")
    Store.create(tmp_path / "store").close()
    command = [sys.executable, "-c", PROGRAM, str(path), str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    virtual, new_chunks, peak = map(int, done.stdout.split())
    assert virtual == DISK_SIZE
    assert 1 <= new_chunks <= 8
    assert peak <= MEMORY_MAX + MEMORY_PER_CHUNK * new_chunks
