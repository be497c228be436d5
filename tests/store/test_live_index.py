"""Work that is going on finds what others publish meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

from dataplane.byte_reader import ByteReader
from dataplane.formats.raw import RawSource
from dataplane.ingest.importing import import_image, prepare_import
from dataplane.store import live_index
from dataplane.store.store import Store
from tests.disks import KIB, MIB, disk_bytes


class StoppedReader(ByteReader):
    """A disk of which the second half is only given when `go` is set; `reached` says that it was asked for."""

    name = "stopped disk"

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self.reached, self.go = threading.Event(), threading.Event()

    def read_at(self, offset: int, length: int) -> bytes:
        if offset + length > self.size // 2:
            self.reached.set()
            assert self.go.wait(300)
        return self._data[offset : offset + length]

    def close(self) -> None:
        self.go.set()


def test_import_uses_what_another_publishes_meanwhile(tmp_path: Path) -> None:
    data = disk_bytes(32 * MIB, seed=1, block=64 * KIB)
    store = Store.create(tmp_path / "store", codec="none")
    reader = StoppedReader(data)
    written: list[int] = []

    def bring() -> None:
        with prepare_import(store, RawSource(reader), threads=1) as prepared:
            written.append(prepared.bytes_written)
            prepared.pin("slow")

    thread = threading.Thread(target=bring)
    thread.start()
    assert reader.reached.wait(300)
    with Store.open(tmp_path / "store") as other:
        whole = import_image(other, RawSource(FullReader(data)), name="quick", threads=1).bytes_written
    threading.Event().wait(live_index.REFRESH_S)
    reader.go.set()
    thread.join(300)
    assert written[0] < whole * 0.75
    assert store.pin("slow").root == store.pin("quick").root


class FullReader(StoppedReader):
    """A disk that is given at once."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.go.set()
