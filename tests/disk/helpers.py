"""Disks for the tests, how they are killed, and how the power is cut under them."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

from dataplane.disks.disk import Disk
from dataplane.formats.probe import open_source
from dataplane.ingest.exporting import export_image
from dataplane.ingest.importing import ImportResult, import_image
from dataplane.store.store import Store
from tests.disks import write_sparse

PAGE = 4096


def bring(store: Store, name: str, data: bytes, folder: Path) -> ImportResult:
    """Import raw bytes as an image."""
    path = write_sparse(folder / f"{name}.raw", data)
    with open_source(path, format="raw") as source:
        result = import_image(store, source, name=name, threads=1)
    path.unlink()
    return result


def exported(store: Store, name: str, folder: Path) -> bytes:
    """Return the bytes of an image."""
    path = folder / f"{name}.out"
    export_image(store, name, path, force=True, threads=1)
    data = path.read_bytes()
    path.unlink()
    return data


def kill(disk: Disk) -> None:
    """Let go of a disk as a killed process does: nothing more is written, and the page cache stays."""
    for layer in disk._stack.layers:
        layer.close()
    os.close(disk._folder_lock)
    disk._folder_lock = -1


def cut_power(folder: Path, durable: Path, rnd: random.Random) -> None:
    """Leave in `folder` what a power cut could: of every page of its files the one in `durable`, or the one now.

    `durable` is a copy of the folder from when everything in it was synced last.
    """
    for path in folder.iterdir():
        before = durable / path.name
        if path.suffix not in (".data", ".log") or not before.exists():
            continue
        old, new = before.read_bytes(), path.read_bytes()
        length = rnd.randint(min(len(old), len(new)), max(len(old), len(new)))
        mixed = bytearray(length)
        for at in range(0, length, PAGE):
            source = rnd.choice((old, new))
            piece = source[at : min(at + PAGE, length)]
            mixed[at : at + len(piece)] = piece
        path.write_bytes(mixed)


def copy_of(folder: Path, target: Path) -> Path:
    """Make `target` a copy of a disk's folder."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    return target
