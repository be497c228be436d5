"""The windows of a stored image, every chunk of which is compared with its id before anybody sees it."""

from __future__ import annotations

import re
import threading
from array import array
from collections.abc import Iterator

from dataplane.dataclass import dataclass
from dataplane.engine.blockio import read_ranges
from dataplane.engine.scan import ChunkState
from dataplane.engine.window import LoadFailure, Window
from dataplane.errors import Corrupt
from dataplane.extent import WINDOW_SIZE
from dataplane.ingest.feed import Claim, Feed
from dataplane.ingest.load_error import load_error
from dataplane.ingest.progress import Progress
from dataplane.store import format as fmt
from dataplane.store.stored_image import StoredImage

DATA_RUNS = re.compile(b"[\\x%02x]+" % ChunkState.DATA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What the manifest says of a window: the ids (32 bytes each) of its chunks. `number` counts windows in disk order;
    `gap_start` is where the one before it ends: what lies between is zeros."""

    ids: memoryview
    number: int
    gap_start: int

    def data_chunks(self) -> list[int]:
        """Return which chunks of the window are not zero."""
        ids = self.ids
        return [
            at // fmt.ID_SIZE for at in range(0, len(ids), fmt.ID_SIZE) if ids[at : at + fmt.ID_SIZE] != fmt.ZERO_ID
        ]


class VerifiedWindows:
    """The windows of `image` that hold data, claimed in disk order. Safe for concurrent use, a Window a thread."""

    def __init__(self, image: StoredImage, progress: Progress, cancelled: threading.Event | None) -> None:
        self._image = image
        self._feed: Feed[Promise] = Feed(image, self._promise, progress, cancelled)
        self._count = 0
        self._chunk_size = image.root.chunk_size
        self.end = 0
        """Where the last window claimed ends, in bytes of the disk."""
        progress.total_bytes = image.virtual_size
        progress.stage = "reading"

    def window(self) -> Window:
        """Return a window for one thread."""
        return Window(WINDOW_SIZE, self._chunk_size, self._image.key)

    def claim(self) -> Claim[Promise] | None:
        """Return the next window with data, or None when there is none left or work was stopped. Raises Cancelled."""
        return self._feed.claim()

    def stop(self) -> None:
        """Let every later claim return None."""
        self._feed.stop()

    def load(self, claim: Claim[Promise], window: Window) -> None:
        """Load a claimed window; raises Corrupt, naming the place on the disk, unless every chunk matches its id."""
        self._feed.load(claim, window)
        check(claim, window)

    def load_staged(self, claim: Claim[Promise], window: Window, stage: Stage) -> None:
        """Do what ``load`` does, and leave the very bytes that were decoded in `stage`. Not for claims with a slab."""
        stage.read(self._image, claim)
        nowhere = array("i", [-1]) * (claim.plan.reader_max + 1)
        try:
            window.load(claim.plan, claim.index, nowhere, stage.rows(), stage.data)
        except LoadFailure as failure:
            raise load_error(self._image, failure) from failure
        check(claim, window)

    def _promise(self, offset: int, length: int) -> Promise:
        self._image.forget_before(offset)
        ids = self._image.expected_ids(offset, -(-length // self._chunk_size))
        promise = Promise(ids=ids, number=self._count, gap_start=self.end)
        self._count += 1
        self.end = offset + length
        return promise


class Stage:
    """The encoded chunks of one window at a time, as they lie in their packs. `positions` and `lengths` (bytes) are
    those of the window's data chunks in disk order. Used by one thread."""

    def __init__(self) -> None:
        self.data = bytearray(WINDOW_SIZE)
        self.positions: list[int] = []
        self.lengths: list[int] = []
        self._segments = array("q")

    def read(self, image: StoredImage, claim: Claim[Promise]) -> None:
        """Read what a claimed window needs, neighbours in a pack at once; raises Corrupt."""
        wanted = claim.plan.source_ranges(claim.index)
        self.positions = [0] * len(wanted)
        self.lengths = [length for _, _, length in wanted]
        self._segments = array("q")  # (reader, offset, length, position)
        room = sum(self.lengths)
        if room > len(self.data):
            self.data = bytearray(room)
        position, last = 0, (-1, -1)
        for number in sorted(range(len(wanted)), key=wanted.__getitem__):
            reader, offset, length = wanted[number]
            self.positions[number] = position
            if last == (reader, offset):
                self._segments[-2] += length
            else:
                self._segments.extend((reader, offset, length, position))
            position += length
            last = (reader, offset + length)
        for at in range(0, len(self._segments), 4):
            self._fill(image, claim, *self._segments[at : at + 4])

    def _fill(self, image: StoredImage, claim: Claim[Promise], reader: int, offset: int, length: int, at: int) -> None:
        rows = memoryview(array("q", (offset, length, at))).cast("B").cast("q", (1, 3))
        try:
            read_ranges(claim.descriptors[reader], rows, self.data)
        except (OSError, EOFError) as error:
            raise Corrupt(f"{image.readers[reader].name} is damaged or unreadable at {offset}: {error}") from error

    def rows(self) -> memoryview:
        """Return int64 rows (reader, source offset, length, position), as ``Window.load`` takes them."""
        return memoryview(self._segments).cast("B").cast("q", (len(self._segments) // 4, 4))


def check(claim: Claim[Promise], window: Window) -> None:
    """Raise Corrupt unless every chunk of a loaded window matches its id."""
    wrong = window.first_mismatch(claim.note.ids)
    if wrong >= 0:
        at = window.offset + wrong * window.chunk_size
        raise Corrupt(f"the chunk at {at} of the image does not match its id: its pack is damaged")


def data_runs(window: Window) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) in bytes of the window for each run of chunks that hold data, clipped to the disk's end."""
    for run in DATA_RUNS.finditer(window.states):
        yield run.start() * window.chunk_size, min(run.end() * window.chunk_size, window.length)
