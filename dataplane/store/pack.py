"""Packs: append-once files of encoded chunks, written by many threads at once and read back with every check."""

from __future__ import annotations

import os
import threading
from array import array
from pathlib import Path
from queue import SimpleQueue

from dataplane.engine.blockio import write_ranges
from dataplane.errors import Corrupt
from dataplane.limits import PACK_SIZE_MAX
from dataplane.store import format as fmt
from dataplane.store.layout import naming


class PackWriter:
    """One pack being written. `reserve` is called under the set's lock, `write` is not."""

    def __init__(self, folder: Path, key: bytes) -> None:
        self.path = folder / f"{os.urandom(8).hex()}.partial"
        self._header = fmt.pack_header(os.urandom(fmt.NONCE_SIZE), key)
        self._ids = bytearray()
        self._stored_lengths = array("I")
        self._plain_lengths = array("I")
        self.size = len(self._header)
        self.writers = 0
        self.full = False
        with naming(self.path, "creating"):
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        self.write(0, self._header)

    def reserve(self, ids: memoryview, stored_lengths: memoryview, plain_length: int, length: int) -> int:
        """Note chunks that are about to be written, and return where they go, in bytes."""
        offset = self.size
        self._ids += ids
        self._stored_lengths.frombytes(stored_lengths.cast("B"))
        self._plain_lengths.extend([plain_length] * (len(ids) // fmt.ID_SIZE))
        self.size += length
        self.writers += 1
        return offset

    def write(self, offset: int, data: memoryview | bytes) -> None:
        """Write `data` at `offset`; safe for concurrent use on different ranges. Raises NoSpace or IoFailed."""
        rows = memoryview(array("q", (offset, len(data), 0))).cast("B").cast("q", (1, 3))
        with naming(self.path, "writing"):
            write_ranges(self._fd, rows, data)

    def seal(self) -> tuple[bytes, Path]:
        """Write the table and footer, make the file durable, and return its name and path."""
        table = fmt.pack_table(bytes(self._ids), self._stored_lengths.tobytes(), self._plain_lengths.tobytes())
        self.write(self.size, table + fmt.pack_footer(table, self.size))
        with naming(self.path, "syncing"):
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1
            name = fmt.pack_name(self._header, table)
            sealed = self.path.with_name(f"{name.hex()}.pack")
            self.path.rename(sealed)
        return name, sealed

    def close(self) -> None:
        """Give up the file descriptor; the workspace removes the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Cut:
    """The packs up to some moment, once they are sealed."""

    def __init__(self) -> None:
        self._sealed = threading.Event()
        self._packs: list[tuple[bytes, Path]] = []
        self._failure: Exception | None = None

    def settle(self, packs: list[tuple[bytes, Path]], failure: Exception | None) -> None:
        """Take what ``packs`` returns or raises."""
        self._packs = packs
        self._failure = failure
        self._sealed.set()

    def packs(self) -> list[tuple[bytes, Path]]:
        """Wait, and return (name, path) of each pack, all durable in the workspace. Raises NoSpace or IoFailed."""
        self._sealed.wait()
        if self._failure is not None:
            raise self._failure
        return self._packs


class PackSet:
    """The packs of one import into a domain. `append` is safe for concurrent use; `finish` ends it."""

    def __init__(self, folder: Path, key: bytes, pack_size_max: int = PACK_SIZE_MAX) -> None:
        self._folder = folder
        self._key = key
        self._pack_size_max = pack_size_max
        self._lock = threading.Lock()
        self._current: PackWriter | None = None
        self._sealed: list[tuple[bytes, Path]] = []
        self._failure: Exception | None = None
        self._queue: SimpleQueue[PackWriter | Cut | None] = SimpleQueue()
        # fsync waits for the disk, not for a core: a thread of its own lets the workers go on encoding.
        self._sealer = threading.Thread(target=self._seal_packs, name="pack-sealer", daemon=True)
        self._sealer.start()
        self.bytes_written = 0

    def append(self, ids: memoryview, stored_lengths: memoryview, plain_length: int, encoded: memoryview) -> None:
        """Append encoded chunks that lie one behind the other in `encoded`, each of `plain_length` bytes when decoded.

        `ids` has 32 bytes and `stored_lengths` a 32-bit length for each. Raises NoSpace or IoFailed.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            pack = self._current
            if pack is not None and pack.size + len(encoded) > self._pack_size_max:
                self._retire(pack)
                pack = None
            if pack is None:
                pack = self._current = PackWriter(self._folder, self._key)
            offset = pack.reserve(ids, stored_lengths, plain_length, len(encoded))
            self.bytes_written += len(encoded)
        try:
            pack.write(offset, encoded)
        finally:
            with self._lock:
                pack.writers -= 1
                if pack.full and pack.writers == 0:
                    self._queue.put(pack)

    def cut(self) -> Cut:
        """Begin new packs, and return those before that no earlier cut has; nobody appends meanwhile."""
        cut = Cut()
        with self._lock:
            if self._current is not None:
                self._retire(self._current)
            self._queue.put(cut)
        return cut

    def finish(self) -> list[tuple[bytes, Path]]:
        """Seal what is open and return (name, path) of every pack that is in no cut, all durable in the workspace."""
        rest = self.cut()
        self._stop()
        return rest.packs()

    def abandon(self) -> None:
        """Stop sealing and forget; the workspace removes the files."""
        self._stop()
        if self._current is not None:
            self._current.close()

    def _retire(self, pack: PackWriter) -> None:
        pack.full = True
        self._current = None
        if pack.writers == 0:
            self._queue.put(pack)

    def _stop(self) -> None:
        self._queue.put(None)
        self._sealer.join()

    def _seal_packs(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Cut):
                item.settle(self._sealed, self._failure)
                self._sealed = []
                continue
            try:
                self._sealed.append(item.seal())
            except Exception as error:
                self._failure = self._failure or error
                item.close()


def read_domain_tag(path: Path) -> bytes:
    """Return the tag of the domain whose chunks a pack holds; raises Corrupt, StoreIncompatible or IoFailed."""
    return fmt.parse_pack_header(read_range(path, 0, fmt.PACK_HEADER.size), f"pack {path.name}")


def read_table(path: Path) -> fmt.PackTable:
    """Read and check the table of a pack, as repair and the building of runs do. Raises Corrupt or IoFailed."""
    what = f"pack {path.name}"
    with naming(path, "reading"), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < fmt.PACK_HEADER.size + fmt.PACK_FOOTER.size:
            raise Corrupt(f"{what} is cut short")
        header = file.read(fmt.PACK_HEADER.size)
        file.seek(size - fmt.PACK_FOOTER.size)
        offset, length, table_sum = fmt.parse_pack_footer(file.read(), size, what)
        file.seek(offset)
        table = file.read(length)
    parsed = fmt.parse_pack_table(table, table_sum, offset, what)
    if fmt.pack_name(header, table).hex() != path.stem:
        raise Corrupt(f"{what} is damaged: its header and table have another name")
    return parsed


def read_range(path: Path, offset: int, length: int) -> bytes:
    """Return `length` bytes of a pack from `offset`; raises Corrupt when it is too short, IoFailed when unreadable."""
    with naming(path, "reading"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Corrupt(f"pack {path.name} is missing from the store") from error
        try:
            data = os.pread(fd, length, offset)
        finally:
            os.close(fd)
    if len(data) != length:
        raise Corrupt(f"pack {path.name} ends inside the {length} bytes at {offset}")
    return data
