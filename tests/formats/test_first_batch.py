"""Extents stream: work begins with the first batch, long before the last table has been read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.byte_reader import ByteReader
from dataplane.extent import ExtentKind, unpack_batch
from dataplane.formats.known import KNOWN, Extras
from dataplane.formats.vdi import open_vdi
from dataplane.formats.vhd import open_vhd
from dataplane.formats.vhdx import open_vhdx
from dataplane.formats.vmdk import open_vmdk
from dataplane.image_source import ImageSource
from dataplane.ingest.importing import import_image
from dataplane.readers.file import FileReader
from dataplane.store.store import Store
from tests.formats.direct import MIB
from tests.formats.helpers import qemu_io, run

GIB = 1 << 30
WAIT_MAX_S = 60

# Name in qemu-img, options, size of the disk, what opens it
LARGE: list[tuple[str, str, int, Callable[[ByteReader], ImageSource]]] = [
    ("qcow2", "cluster_size=65536", 64 * GIB, lambda reader: KNOWN["qcow2"].open(reader, Extras())),
    ("vmdk", "subformat=monolithicSparse", 512 * GIB, open_vmdk),
    ("vpc", "subformat=dynamic,force_size=on", 2000 * GIB, open_vhd),
    ("vhdx", "block_size=1M", 2048 * GIB, open_vhdx),
    ("vdi", "static=off", 4096 * GIB, open_vdi),
]
IDS = [form for form, *_ in LARGE]


class Recorder(ByteReader):
    """A file that no kernel reads by itself, which notes what is read.

    A read at ``held_at`` waits until the byte at ``awaited_at`` has been read; whether it did so in vain is told.
    """

    def __init__(self, path: Path, held_at: int = -1, awaited_at: int = -1) -> None:
        self._inner = FileReader(path)
        self.name, self.size = self._inner.name, self._inner.size
        self.seen: list[tuple[int, int]] = []
        self.in_vain: bool | None = None
        self._held_at, self._awaited_at = held_at, awaited_at
        self._arrived = threading.Event()

    def read_at(self, offset: int, length: int) -> bytes:
        self.seen.append((offset, length))
        if offset <= self._awaited_at < offset + length:
            self._arrived.set()
        if offset <= self._held_at < offset + length and self.in_vain is None:
            self.in_vain = not self._arrived.wait(WAIT_MAX_S)
        return self._inner.read_at(offset, length)

    def close(self) -> None:
        self._inner.close()


def written(path: Path, form: str, options: str, size: int) -> Path:
    """Make an image with data in the first and the last MiB of the disk, and every table of it."""
    run("qemu-img", "create", "-q", "-f", form, "-o", options, path, str(size))
    commands = ["write -P 1 0 1M", f"write -P 2 {size - MIB} 1M"]
    if form == "qcow2":  # which has only the tables that are needed
        commands += [f"write -z {at * GIB + MIB} {GIB - 2 * MIB}" for at in range(size // GIB)]
    qemu_io(path, *commands, form=form)
    return path


@pytest.mark.parametrize(("form", "options", "size", "opener"), LARGE, ids=IDS)
def test_data_moves_before_the_last_table_is_read(
    tmp_path: Path, form: str, options: str, size: int, opener: Callable[[ByteReader], ImageSource]
) -> None:
    path = written(tmp_path / "disk", form, options, size)
    with opener(Recorder(path)) as source:
        batches = source.extents()
        reader = source.readers[0]
        assert isinstance(reader, Recorder)
        first = next(unpack_batch(next(batches)))
        taken = sum(length for _, length in reader.seen)
        list(batches)
        last_table = reader.seen[-1][0]
        assert (first.offset, first.kind) == (0, ExtentKind.DATA)
        # Every format reads its tables a piece at a time: no whole map is in memory, and none is waited for.
        assert taken <= sum(length for _, length in reader.seen) // 2
        assert max(length for _, length in reader.seen) <= MIB
    # An import that read all tables first would wait for data that it never comes to.
    held = Recorder(path, held_at=last_table, awaited_at=first.source_offset)
    with Store.create(tmp_path / "store") as store, opener(held) as source:
        sizes = import_image(store, source, name="image").sizes
    assert held.in_vain is False
    assert sizes.data_size >= 2 * MIB
