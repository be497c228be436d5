"""The change log of a layer: what became of which blocks, in order, so that a crash at any moment leaves a true map.

Records are appended before the data that they speak of is written, and carry the sums of that data: after a crash a
block counts as written when what lies in the data file is what a record promised. So neither a killed process nor a
power cut leaves a block that is half old and half new. A COMMIT record says up to where all of it is durable.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Callable
from pathlib import Path

from dataplane.disks import format as fmt
from dataplane.disks.block_map import BLOCK_SIZE, PAGE_BLOCKS, BlockMap, BlockState
from dataplane.disks.format import RecordKind
from dataplane.engine.scan import scan_chunks
from dataplane.errors import Corrupt
from dataplane.limits import MIB
from dataplane.store.layout import naming, sync_folder

COMPACT_SIZE = 4 * MIB
"""A log is not written anew before it has this many bytes."""

COMPACT_GROWTH = 4
"""… and is so many times as long as when it was last written."""

VERIFY_BLOCKS = 1024
"""Blocks of a data file that are read at once to be compared with their sums."""

ReadBlocks = Callable[[int, int], bytes]


class ChangeLog:
    """An open log. Its owner serialises all calls but ``sync``."""

    def __init__(self, path: Path, fd: int, nonce: bytes, position: int) -> None:
        self._path = path
        self._fd = fd
        self._nonce = nonce
        self.position = position
        """Where the next record goes: the length in bytes."""
        self._compacted_size = position

    @classmethod
    def create(cls, path: Path, layer: int) -> ChangeLog:
        """Create an empty log, durable but for its folder; raises NoSpace or IoFailed."""
        nonce = os.urandom(fmt.NONCE_SIZE)
        with naming(path, "creating"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                put(fd, fmt.log_header(layer, nonce), 0)
                os.fsync(fd)
            except BaseException:
                os.close(fd)
                raise
        return cls(path, fd, nonce, fmt.LOG_HEADER.size)

    @classmethod
    def open(
        cls, path: Path, layer: int, blocks: BlockMap, block_count: int, read: ReadBlocks, *, may_write: bool
    ) -> tuple[ChangeLog, bool]:
        """Open a log and fill `blocks` with what it says of a layer of `block_count` blocks.

        `read(first, count)` returns blocks of the data file. Also returned is whether the log ends in anything but a
        commit: then its owner makes the data durable and writes it anew before it appends. Raises Corrupt or IoFailed.
        """
        with naming(path, "opening"):
            try:
                fd = os.open(path, (os.O_RDWR if may_write else os.O_RDONLY) | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise Corrupt(f"{path} is missing: the disk cannot be read without it") from error
        try:
            with naming(path, "reading"):
                data = read_all(fd)
            nonce = fmt.parse_log_header(data, layer, str(path))
            replay = Replay(nonce, data, blocks, block_count, str(path))
            replay.run(read)
        except BaseException:
            os.close(fd)
            raise
        log = cls(path, fd, nonce, replay.end)
        return log, replay.committed_end != len(data)

    def write(self, first: int, data: memoryview) -> None:
        """Note that blocks from `first` are about to hold `data`, whole blocks. Raises NoSpace or IoFailed."""
        sums = block_sums(data)
        per_record = fmt.PAYLOAD_SIZE_MAX // fmt.SUM_SIZE
        for start in range(0, len(sums) // fmt.SUM_SIZE, per_record):
            piece = sums[start * fmt.SUM_SIZE : (start + per_record) * fmt.SUM_SIZE]
            self._append(RecordKind.WRITE, first + start, len(piece) // fmt.SUM_SIZE, piece)

    def zero(self, first: int, count: int) -> None:
        """Note that blocks read as zeros. Raises NoSpace or IoFailed."""
        self._append(RecordKind.ZERO, first, count)

    def commit(self, position: int) -> None:
        """Note that what records before `position` say is durable; true once ``sync`` has returned."""
        self._append(RecordKind.COMMIT, position, 0)

    def sync(self) -> None:
        """Make the log durable; raises IoFailed or NoSpace."""
        with naming(self._path, "syncing"):
            os.fdatasync(self._fd)

    def is_long(self) -> bool:
        """Return whether the log should be written anew."""
        return self.position >= max(COMPACT_SIZE, COMPACT_GROWTH * self._compacted_size)

    def rewritten(self, layer: int, blocks: BlockMap) -> ChangeLog:
        """Write a log that says what `blocks` says, all of it durable, in the place of this one; return it.

        The data must be durable. Raises NoSpace or IoFailed, and this log stays then.
        """
        fresh = self._path.with_suffix(".new")
        with naming(fresh, "replacing"):
            fresh.unlink(missing_ok=True)
        log = ChangeLog.create(fresh, layer)
        try:
            for number, page in blocks.pages():
                log._append(RecordKind.PAGE, number, 0, fmt.page_payload(page))
            log.commit(log.position)
            log.sync()
            with naming(self._path, "replacing"):
                os.rename(fresh, self._path)
            sync_folder(self._path.parent)
        except BaseException:
            log.close()
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise
        log._path = self._path
        log._compacted_size = log.position
        self.close()
        return log

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _append(self, kind: RecordKind, first: int, count: int, payload: bytes = b"") -> None:
        record = fmt.record(self._nonce, self.position, kind, first=first, count=count, payload=payload)
        with naming(self._path, "writing"):
            put(self._fd, record, self.position)
        self.position += len(record)


class Replay:
    """What a log says. `end` is where its whole records end, `committed_end` where the last COMMIT does."""

    def __init__(self, nonce: bytes, data: bytes, blocks: BlockMap, block_count: int, name: str) -> None:
        self._blocks = blocks
        self._block_count = block_count
        self._name = name
        self._records: list[tuple[int, int, int, int, memoryview]] = []
        self.end = fmt.LOG_HEADER.size
        self.committed_end = 0
        self._committed = 0
        view = memoryview(data)
        while (found := fmt.parse_record(nonce, view, self.end)) is not None:
            kind, first, count, payload = found
            if kind == RecordKind.COMMIT:
                self._committed = max(self._committed, first)
                self.committed_end = self.end + fmt.RECORD.size
            else:
                self._check(kind, first, count, payload)
                self._records.append((self.end, *found))
            self.end += fmt.RECORD.size + len(payload)
        if not self._records and not self.committed_end:
            self.committed_end = fmt.LOG_HEADER.size

    def run(self, read: ReadBlocks) -> None:
        """Apply every record; those that no COMMIT covers only as far as the data is there."""
        for position, kind, first, count, payload in self._records:
            if kind == RecordKind.PAGE:
                page = bytes(payload)
                self._blocks.set_page(first, page * PAGE_BLOCKS if len(page) == 1 else page)
            elif kind == RecordKind.ZERO:
                self._blocks.set(first, count, BlockState.ZERO)
            elif position < self._committed:
                self._blocks.set(first, count, BlockState.WRITTEN)
            else:
                self._apply_written(first, count, payload, read)

    def _apply_written(self, first: int, count: int, sums: memoryview, read: ReadBlocks) -> None:
        for start in range(0, count, VERIFY_BLOCKS):
            number = min(VERIFY_BLOCKS, count - start)
            there = block_sums(memoryview(read(first + start, number)))
            for place in range(number):
                at = place * fmt.SUM_SIZE
                promised = sums[start * fmt.SUM_SIZE + at : start * fmt.SUM_SIZE + at + fmt.SUM_SIZE]
                if there[at : at + fmt.SUM_SIZE] == promised:
                    self._blocks.set(first + start + place, 1, BlockState.WRITTEN)

    def _check(self, kind: int, first: int, count: int, payload: memoryview) -> None:
        """Raise Corrupt for a record that matches its sum and yet makes no sense."""
        if kind == RecordKind.PAGE:
            right = (
                len(payload) in (1, PAGE_BLOCKS)
                and first * PAGE_BLOCKS < self._block_count
                and not bytes(payload).strip(b"\0\1\2")
            )
        else:
            fits = count > 0 and first <= self._block_count and count <= self._block_count - first
            lengths = {RecordKind.WRITE: fmt.SUM_SIZE * count, RecordKind.ZERO: 0}
            right = fits and lengths.get(RecordKind(kind) if kind in (1, 2) else RecordKind.PAGE) == len(payload)
        if not right:
            raise Corrupt(f"{self._name} is damaged: its record at {self.end} makes no sense")


def block_sums(data: memoryview) -> bytes:
    """Return the sums of whole blocks, SUM_SIZE bytes each."""
    count = len(data) // BLOCK_SIZE
    digests = array("Q", bytes(16 * count))
    scan_chunks(data, BLOCK_SIZE, memoryview(digests).cast("B"), memoryview(bytearray(count)))
    return digests[::2].tobytes()


def put(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def read_all(fd: int) -> bytes:
    """Return the whole of a file; raises OSError."""
    size = os.fstat(fd).st_size
    pieces: list[bytes] = []
    position = 0
    while position < size and (piece := os.pread(fd, size - position, position)):
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)


def fill(fd: int, view: memoryview, offset: int) -> None:
    """Fill `view` from `offset`; what lies behind the end of the file reads as zeros. Raises OSError."""
    while view:
        count = os.preadv(fd, [view], offset)
        if count == 0:
            view[:] = bytes(len(view))
            return
        view = view[count:]
        offset += count
