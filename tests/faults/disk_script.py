"""What faults happen to while a disk is written: a script of its own, run in the forker's processes.

It makes a disk over an image, writes, trims, flushes, takes a snapshot and grows. Before each step it notes in a file
outside the folder under test how far it is, and after each flush that all before is durable.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from dataplane.disks.disk import Disk, open_disk
from dataplane.disks.pinning import create_disk
from dataplane.disks.snapshot import snapshot_disk
from dataplane.store.store import Store
from tests.disks import KIB

BLOCK = 4096
IMAGE = "a"
SIZE = 256 * KIB
GROWN = 320 * KIB
SNAPSHOT = "snapshot"
STEPS = 24


def run(arguments: list[str]) -> int:
    """Run the script: a store's folder, a disk's folder, and the file for notes."""
    store_path, folder, notes_path = arguments
    notes = os.open(notes_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with Store.open(store_path) as store:
        create_disk(store, folder, image=IMAGE)
        os.write(notes, b"c")
        with open_disk(store, folder) as disk:
            for step in range(STEPS):
                os.write(notes, b"b")
                change(disk, step)
                os.write(notes, b"e")
                if step % 5 == 4:
                    disk.flush()
                    os.write(notes, b"f")
                if step == 12:
                    snapshot_disk(store, disk, name=SNAPSHOT, threads=1)
                    os.write(notes, b"fs")
                if step == 17:
                    disk.resize(GROWN)
                    os.write(notes, b"g")
        os.write(notes, b"f")
    return 0


def change(disk: Disk | bytearray, step: int) -> None:
    """Do what a step does, to a disk or to plain bytes."""
    rnd = random.Random(step)
    size = len(disk) if isinstance(disk, bytearray) else disk.size
    offset = rnd.randrange(size)
    length = min(rnd.choice([10, BLOCK, 3 * BLOCK, 20_000]), size - offset)
    if step % 4 == 3:
        if isinstance(disk, bytearray):
            disk[offset : offset + length] = bytes(length)
        else:
            disk.write_zeroes(offset, length)
    elif isinstance(disk, bytearray):
        disk[offset : offset + length] = rnd.randbytes(length)
    else:
        disk.write(offset, rnd.randbytes(length))


def states(image: bytes) -> list[bytes]:
    """Return what the disk holds after 0, 1, … steps; from the step after 17 on it is larger."""
    content = bytearray(image)
    found = [bytes(content)]
    for step in range(STEPS):
        change(content, step)
        found.append(bytes(content))
        if step == 17:
            content += bytes(GROWN - SIZE)
    return found


def what_may_be(notes: Path, everything: list[bytes]) -> tuple[bool, list[bytes], int]:
    """Return (whether the disk is there, states between the last flush and now, the last one that was acknowledged)."""
    text = notes.read_text() if notes.exists() else ""
    begun, ended = text.count("b"), text.count("e")
    flushed = text[: text.rfind("f")].count("e") if "f" in text else 0
    return "c" in text, everything[flushed : begun + 1], ended
