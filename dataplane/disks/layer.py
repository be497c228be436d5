"""A layer of a disk: a sparse file of what was written, and the log that says which blocks of it count."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dataplane.disks.block_map import BLOCK_SIZE, BlockMap, BlockState
from dataplane.disks.change_log import ChangeLog, fill, put
from dataplane.engine.blockio import punch_hole
from dataplane.errors import Corrupt
from dataplane.store.layout import naming, sync_folder

ReadBelow = Callable[[int, memoryview], None]
"""Fills a view with what a disk holds from an offset."""


def data_path(folder: Path, number: int) -> Path:
    """Return where the blocks of a layer are."""
    return folder / f"layer-{number}.data"


def log_path(folder: Path, number: int) -> Path:
    """Return where the change log of a layer is."""
    return folder / f"layer-{number}.log"


def block_count(size: int) -> int:
    """Return how many blocks a disk of `size` bytes has; the last may be partly behind its end."""
    return -(-size // BLOCK_SIZE)


class Layer:
    """An open layer. Calls that change it are serialised by its disk, but for ``sync_data`` and ``sync_log``.

    The files close with the last user: whoever reads holds on to the layer.
    """

    def __init__(self, folder: Path, number: int, fd: int, log: ChangeLog, blocks: BlockMap) -> None:
        self.number = number
        self.blocks = blocks
        self._path = data_path(folder, number)
        self._fd = fd
        self._log = log
        # Blocks that are written but not committed: a crash may take them back, so every change of them is logged.
        self._fresh = BlockMap()
        self._settling = BlockMap()
        self._changed = False

    # ------------------------------------------------------------------------------------------ opening
    @classmethod
    def create(cls, folder: Path, number: int, size: int) -> Layer:
        """Create an empty layer for a disk of `size` bytes, durable but for its folder; raises NoSpace or IoFailed."""
        path = data_path(folder, number)
        with naming(path, "creating"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, block_count(size) * BLOCK_SIZE)
                os.fsync(fd)
            except BaseException:
                os.close(fd)
                raise
        try:
            log = ChangeLog.create(log_path(folder, number), number)
        except BaseException:
            os.close(fd)
            raise
        return cls(folder, number, fd, log, BlockMap())

    @classmethod
    def open(cls, folder: Path, number: int, size: int, *, may_write: bool) -> Layer:
        """Open a layer of a disk of `size` bytes, as a crash or an orderly end left it. Raises Corrupt or IoFailed."""
        path = data_path(folder, number)
        count = block_count(size)
        with naming(path, "opening"):
            try:
                fd = os.open(path, (os.O_RDWR if may_write else os.O_RDONLY) | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise Corrupt(f"{path} is missing: the disk cannot be read without it") from error
        try:
            with naming(path, "opening"):
                if may_write and os.fstat(fd).st_size < count * BLOCK_SIZE:
                    os.ftruncate(fd, count * BLOCK_SIZE)  # a crash came between the disk's new size and this

            def read(first: int, number: int) -> bytes:
                room = bytearray(number * BLOCK_SIZE)
                with naming(path, "reading"):
                    fill(fd, memoryview(room), first * BLOCK_SIZE)
                return bytes(room)

            blocks = BlockMap()
            log, unsettled = ChangeLog.open(log_path(folder, number), number, blocks, count, read, may_write=may_write)
        except BaseException:
            os.close(fd)
            raise
        layer = cls(folder, number, fd, log, blocks)
        if unsettled and may_write:
            layer.compact()
        return layer

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self._log.close()

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()

    # ------------------------------------------------------------------------------------------ reading
    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with what the data file holds from `offset`; raises IoFailed."""
        with naming(self._path, "reading"):
            fill(self._fd, view, offset)

    # ------------------------------------------------------------------------------------------ changing
    def write(self, offset: int, data: memoryview, read_below: ReadBelow) -> None:
        """Write `data`; `read_below` gives what the disk holds now, for blocks of which only a part is written.

        Raises NoSpace, IoFailed or Corrupt: the blocks written then hold anything of the old and the new.
        """
        first, start = divmod(offset, BLOCK_SIZE)
        stop = offset + len(data)
        last = (stop - 1) // BLOCK_SIZE
        logged_first, logged_end = first, last + 1
        if start and self._is_settled(first):
            logged_first += 1
        if stop % BLOCK_SIZE and self._is_settled(last):
            logged_end -= 1
        written_at, before = offset, self._log.position
        logged = logged_first < logged_end and not self._all_settled(logged_first, logged_end - logged_first)
        if logged:
            if (start and logged_first == first) or (stop % BLOCK_SIZE and logged_end == last + 1):
                written_at, data = self._whole_blocks(offset, data, logged_first, logged_end, read_below)
            at = logged_first * BLOCK_SIZE - written_at
            self._log.write(logged_first, data[at : at + (logged_end - logged_first) * BLOCK_SIZE])
        self._changed = True
        try:
            with naming(self._path, "writing"):
                put(self._fd, data, written_at)
        except BaseException:
            self._log.position = before  # or the next commit would say that the data is there
            raise
        if logged:
            self.blocks.set(logged_first, logged_end - logged_first, BlockState.WRITTEN)
            self._fresh.set(logged_first, logged_end - logged_first, BlockState.WRITTEN)

    def _whole_blocks(
        self, offset: int, data: memoryview, first: int, end: int, read_below: ReadBelow
    ) -> tuple[int, memoryview]:
        """Return (offset, data) widened so that blocks from `first` to `end` are whole."""
        at = min(offset, first * BLOCK_SIZE)
        stop = max(offset + len(data), end * BLOCK_SIZE)
        whole = memoryview(bytearray(stop - at))
        if at < offset:
            read_below(at, whole[: offset - at])
        whole[offset - at : offset - at + len(data)] = data
        if offset + len(data) < stop:
            read_below(offset + len(data), whole[offset + len(data) - at :])
        return at, whole

    def zero(self, first: int, count: int) -> None:
        """Let blocks read as zeros, and give back what room they took. Raises NoSpace or IoFailed."""
        runs = self.blocks.runs(first, count)
        if all(run.state == BlockState.ZERO for run in runs):
            return
        self._log.zero(first, count)
        self._changed = True
        self.blocks.set(first, count, BlockState.ZERO)
        self._fresh.set(first, count, BlockState.BELOW)
        for run in runs:
            if run.state == BlockState.WRITTEN:
                self._punch(run.first, run.length)

    def _punch(self, first: int, count: int) -> None:
        try:
            punch_hole(self._fd, first * BLOCK_SIZE, count * BLOCK_SIZE)
        except OSError:  # room is not given back where the file system cannot; the map says zeros all the same
            return

    def grow(self, size: int) -> None:
        """Make room for a disk of `size` bytes; raises NoSpace or IoFailed."""
        with naming(self._path, "growing"):
            os.ftruncate(self._fd, block_count(size) * BLOCK_SIZE)

    def _is_settled(self, block: int) -> bool:
        """Return whether a block is written, and no crash can take it back."""
        return self._all_settled(block, 1)

    def _all_settled(self, first: int, count: int) -> bool:
        if any(run.state != BlockState.WRITTEN for run in self.blocks.runs(first, count)):
            return False
        return not (self._fresh.has_any(first, count) or self._settling.has_any(first, count))

    # ------------------------------------------------------------------------------------------ durability
    def begin_flush(self) -> int | None:
        """Return the position of the log that a flush will commit, None when nothing has changed since the last."""
        if not self._changed:
            return None
        self._changed = False
        self._settling.add(self._fresh)  # beside what a flush that failed has left there
        self._fresh = BlockMap()
        return self._log.position

    def sync_data(self) -> None:
        """Make what was written durable; raises IoFailed or NoSpace."""
        with naming(self._path, "syncing"):
            os.fdatasync(self._fd)

    def commit(self, position: int) -> None:
        """Append that records before `position` are durable, their data too."""
        self._log.commit(position)

    def sync_log(self) -> None:
        """Make the log durable; raises IoFailed or NoSpace."""
        self._log.sync()

    def end_flush(self) -> None:
        """Note that a flush is done, and write the log anew when it has become long."""
        self._settling = BlockMap()
        if self._log.is_long():
            self.compact()

    def abort_flush(self) -> None:
        """Note that a flush has failed: the next one has everything to do."""
        self._changed = True

    def compact(self) -> None:
        """Make everything durable with a log that is as short as can be; nothing else changes the layer meanwhile."""
        self.sync_data()
        self._log = self._log.rewritten(self.number, self.blocks)
        self._fresh, self._settling, self._changed = BlockMap(), BlockMap(), False


def remove_layer(folder: Path, number: int) -> None:
    """Remove a layer's files, whichever are there; raises IoFailed."""
    for path in (log_path(folder, number), data_path(folder, number)):
        with naming(path, "removing"):
            path.unlink(missing_ok=True)


def remove_strays(folder: Path, kept: set[int]) -> None:
    """Remove files of layers that the state of a disk does not name: a crash left them. Raises IoFailed."""
    found = False
    for path in folder.glob("layer-*"):
        number = path.stem.removeprefix("layer-")
        if path.suffix == ".new" or not number.isdecimal() or int(number) not in kept:
            found = True
            with naming(path, "removing"):
                path.unlink(missing_ok=True)
    if found:
        sync_folder(folder)
