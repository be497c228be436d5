"""The block log: a short digest of every 4 KiB block of a disk, from which every larger chunk size follows."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from dataplane.analysis.arrays import np
from dataplane.dataclass import dataclass
from dataplane.engine.cutter import Cutter
from dataplane.engine.fold import fold
from dataplane.engine.pieces import PieceRows
from dataplane.engine.plan import Plan
from dataplane.engine.survey import BLOCK_ABSENT, BLOCK_ZERO, Survey, note_window
from dataplane.engine.window import LoadFailure, Window
from dataplane.errors import Cancelled
from dataplane.extent import WINDOW_SIZE
from dataplane.hints import TYPE_CHECKING
from dataplane.image_source import ImageSource
from dataplane.ingest.crew import run_crew
from dataplane.ingest.feed import Feed, descriptors
from dataplane.ingest.load_error import load_error
from dataplane.ingest.progress import Progress
from dataplane.limits import CHUNK_SIZE_MIN, DECODED_SIZE_MAX, MIB

if TYPE_CHECKING:
    import numpy.typing as npt

    Digests = npt.NDArray[np.uint64]

BLOCK_SIZE = CHUNK_SIZE_MIN
BLOCKS = WINDOW_SIZE // BLOCK_SIZE
"""Blocks in a row of a log."""

DIGEST_SIZE = 8
"""Bytes of a digest in a log."""

SLICE_WINDOWS = 128
"""Windows (512 MiB of a disk, 1 MiB of digests) that are read between two looks at progress and cancellation: enough
that joining the threads costs nothing."""

CUT_WINDOWS = 32
"""The same when pieces are cut, which take 64 KiB a window and a multiple of that on purpose."""

LOAD_SIZE = MIB
"""What a thread loads at once: a buffer that stays in its cache, as for a sweep. A row of a log is several loads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLog:
    """What was found in neighbouring or distant windows of one disk, in disk order.

    `offsets` (bytes, int64) has one multiple of 4 MiB for each row of `digests`; a row has a value for each 4 KiB
    block: 0 where nothing was read, 1 where all bytes are zero, else eight bytes of a digest. Windows that are not
    listed hold nothing.
    """

    offsets: npt.NDArray[np.int64]
    digests: Digests

    def __len__(self) -> int:
        return len(self.offsets)


def survey(
    source: ImageSource,
    *,
    threads: int,
    progress: Progress,
    cancelled: threading.Event | None,
    cutter: Cutter | None = None,
) -> Iterator[BlockLog]:
    """Read all of `source`, and yield its log in slices of at most SLICE_WINDOWS windows, in disk order.

    A `cutter` gets the pieces of each slice before that is yielded; the disk is not ended there. Raises Cancelled,
    SourceError, Corrupt or MemoryError.
    """
    progress.total_bytes, progress.stage = source.virtual_size, "reading"
    if source.own_data or any(reader.fileno() is None for reader in source.readers):
        yield from survey_feed(source, threads, progress, cancelled, cutter)
    else:
        yield from survey_natively(source, threads, progress, cancelled, cutter)
    source.check_unchanged()
    progress.position_bytes, progress.stage = source.virtual_size, "done"


def survey_natively(
    source: ImageSource, threads: int, progress: Progress, cancelled: threading.Event | None, cutter: Cutter | None
) -> Iterator[BlockLog]:
    """Read sources that have file descriptors in native loops."""
    size = min(WINDOW_SIZE, max(LOAD_SIZE, source.decoded_size_max))  # so that nothing is decoded twice
    most = (SLICE_WINDOWS if cutter is None else CUT_WINDOWS) * WINDOW_SIZE // size
    blocks = size // BLOCK_SIZE
    windows = [Window(size, BLOCK_SIZE, scan_only=cutter is None) for _ in range(threads)]
    for batch in source.extents():
        plan = Plan(batch, size, DECODED_SIZE_MAX)
        fds = list(descriptors(source, plan))
        for first, count in slices_of(plan, most):
            if cancelled is not None and cancelled.is_set():
                raise Cancelled("the work was cancelled")
            digests = bytearray(count * blocks * DIGEST_SIZE)
            pieces = None if cutter is None else PieceRows(count)
            work = Survey(plan, fds, memoryview(digests).cast("Q", (count, blocks)), first, pieces)
            free = list(windows)
            try:
                run_crew(lambda free=free, work=work: work.work(free.pop()), threads, work.stop)  # type: ignore[misc]
            except LoadFailure as failure:
                raise load_error(source, failure) from failure
            progress.read_bytes += work.read_bytes
            if cutter is not None and pieces is not None:
                cutter.add(pieces)
            offsets = np.array([plan.window(index)[0] for index in range(first, first + count)], dtype=np.int64)
            rows = np.frombuffer(digests, dtype=np.uint64).reshape(count, blocks)
            yield noted(in_rows(offsets, rows), progress)
        progress.position_bytes = plan.end


def slices_of(plan: Plan, most: int) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of about `most` windows of the plan each, which tear no row of a log apart."""
    first = 0
    while first < plan.window_count:
        last = min(first + most, plan.window_count)
        while last < plan.window_count and same_row(plan.window(last - 1)[0], plan.window(last)[0]):
            last += 1
        yield first, last - first
        first = last


def same_row(one: int, other: int) -> bool:
    """Return whether two offsets belong to one row of a log."""
    return one // WINDOW_SIZE == other // WINDOW_SIZE


def in_rows(offsets: npt.NDArray[np.int64], digests: Digests) -> BlockLog:
    """Return the log of windows at ascending `offsets` that are smaller than a row; `digests` has a row for each."""
    if digests.shape[1] == BLOCKS:
        return BlockLog(offsets=offsets, digests=digests)
    numbers, rows = np.unique(offsets // WINDOW_SIZE, return_inverse=True)
    wide = np.zeros((len(numbers), BLOCKS // digests.shape[1], digests.shape[1]), dtype=np.uint64)
    wide[rows, offsets % WINDOW_SIZE // (digests.shape[1] * BLOCK_SIZE)] = digests
    return BlockLog(offsets=numbers * WINDOW_SIZE, digests=wide.reshape(-1, BLOCKS))


def survey_feed(
    source: ImageSource, threads: int, progress: Progress, cancelled: threading.Event | None, cutter: Cutter | None
) -> Iterator[BlockLog]:
    """Read any source window by window, which is also how bytes come over a network."""
    feed: Feed[None] = Feed(source, lambda offset, length: None, progress, cancelled)
    windows = [Window(WINDOW_SIZE, BLOCK_SIZE) for _ in range(threads)]
    lock = threading.Lock()
    rows: dict[int, bytearray] = {}
    pieces: dict[int, PieceRows] = {}
    most = SLICE_WINDOWS if cutter is None else CUT_WINDOWS
    left = most

    def work(window: Window) -> None:
        nonlocal left
        while True:
            with lock:
                if left == 0:
                    return
                left -= 1
            claim = feed.claim()
            if claim is None:
                return
            feed.load(claim, window)
            row = bytearray(BLOCKS * DIGEST_SIZE)
            note_window(window, memoryview(row).cast("Q"))
            piece_rows = PieceRows(int(cutter is not None))
            if cutter is not None:
                piece_rows.note_window(0, window)
            with lock:
                rows[claim.offset], pieces[claim.offset] = row, piece_rows
                progress.read_bytes += window.read_bytes

    try:
        while True:
            free = list(windows)
            left = most
            run_crew(lambda free=free: work(free.pop()), threads, feed.stop)  # type: ignore[misc]
            if not rows:
                return
            offsets = np.array(sorted(rows), dtype=np.int64)
            digests = np.stack([np.frombuffer(rows[offset], dtype=np.uint64) for offset in offsets.tolist()])
            if cutter is not None:
                for offset in offsets.tolist():
                    cutter.add(pieces[offset])
            rows.clear()
            pieces.clear()
            yield noted(BlockLog(offsets=offsets, digests=digests), progress)
    finally:
        feed.stop()


def noted(log: BlockLog, progress: Progress) -> BlockLog:
    """Count the zero blocks of a slice in the progress, and return the slice."""
    if len(log):
        progress.position_bytes = int(log.offsets[-1]) + WINDOW_SIZE
        zero = int(np.count_nonzero(log.digests == BLOCK_ZERO)) * BLOCK_SIZE
        progress.zero_bytes += zero
        progress.new_bytes += int(np.count_nonzero(log.digests > BLOCK_ZERO)) * BLOCK_SIZE
    return log


def joined(slices: list[BlockLog], *, keep_zeros: bool = False) -> BlockLog:
    """Return the log of a whole disk from its slices, which are used up.

    Windows in which there is no data are left out; with `keep_zeros` only those in which nothing was read.
    """
    kept = []
    for number, part in enumerate(slices):
        has_data = (part.digests > (BLOCK_ABSENT if keep_zeros else BLOCK_ZERO)).any(axis=1)
        kept.append(
            part if has_data.all() else BlockLog(offsets=part.offsets[has_data], digests=part.digests[has_data])
        )
        slices[number] = kept[-1]
    if len(kept) == 1:
        slices.clear()
        return kept[0]
    count = sum(map(len, kept))
    offsets, digests = np.empty(count, dtype=np.int64), np.empty((count, BLOCKS), dtype=np.uint64)
    at, nothing = 0, BlockLog(offsets=offsets[:0], digests=digests[:0])
    for number, part in enumerate(kept):
        offsets[at : at + len(part)] = part.offsets
        digests[at : at + len(part)] = part.digests
        at += len(part)
        slices[number] = kept[number] = nothing  # each part is let go as soon as it is copied
    return BlockLog(offsets=offsets, digests=digests)


def folded(digests: Digests, chunk_size: int) -> Digests:
    """Return the digests of chunks of `chunk_size` bytes, a power of two from 4 KiB to 4 MiB: fewer in each row.

    The rows of the result are those of `digests`; 4 KiB itself gives `digests`, not a copy.
    """
    while digests.shape[1] * chunk_size > WINDOW_SIZE:
        parents = np.empty((len(digests), digests.shape[1] // 2), dtype=np.uint64)
        fold(digests.reshape(-1).data, parents.reshape(-1).data)
        digests = parents
    return digests


def shifted(log: BlockLog, blocks: int) -> BlockLog:
    """Return the log as it would be of the disk without its first `blocks` blocks (fewer than a window has)."""
    if blocks == 0 or not len(log):
        return log
    numbers = log.offsets // WINDOW_SIZE
    wanted = np.union1d(numbers, numbers - 1)
    digests = np.zeros((len(wanted), BLOCKS), dtype=np.uint64)
    digests[np.searchsorted(wanted, numbers), : BLOCKS - blocks] = log.digests[:, blocks:]
    digests[np.searchsorted(wanted, numbers - 1), BLOCKS - blocks :] = log.digests[:, :blocks]
    kept = wanted >= 0
    return BlockLog(offsets=wanted[kept] * WINDOW_SIZE, digests=digests[kept])
