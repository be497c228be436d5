"""The feed: hands the windows of a source to the threads that work on them, in disk order."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable

from dataplane.byte_reader import ByteReader
from dataplane.dataclass import dataclass
from dataplane.engine.plan import Plan
from dataplane.engine.window import LoadFailure, Window
from dataplane.errors import Cancelled
from dataplane.extent import WINDOW_SIZE
from dataplane.hints import TYPE_CHECKING, Generic, TypeVar
from dataplane.image_source import ImageSource
from dataplane.ingest.load_error import load_error
from dataplane.ingest.progress import Progress
from dataplane.limits import DECODED_SIZE_MAX

Note = TypeVar("Note")

if TYPE_CHECKING:
    from dataplane.ingest.prefetch import Prefetch
    from dataplane.ingest.slab import Slab

    Integers = array[int]
else:
    Integers = array  # which takes no parameter before Python 3.12


@dataclass(frozen=True, slots=True)
class Claim(Generic[Note]):
    """A window that one thread has to work on. `note` is what the feed's owner attached to it, `slab` what it reads
    over a network, if anything."""

    plan: Plan
    index: int
    offset: int
    descriptors: array[int]
    slab: Slab | None
    note: Note


class Descriptors(Integers):
    """File descriptors of the readers that a plan names, by reader, and the readers, which live as long as these do."""

    readers: list[ByteReader]


class Feed(Generic[Note]):
    """Windows of `source`, claimed one at a time. Safe for concurrent use; tables are read by whoever needs them.

    From the first batch on that names a reader without a descriptor, a prefetch reads tables and data ahead; it ends
    with the last window, with ``stop``, and with the feed.

    `on_claim(offset, length)` runs for each window in disk order, under the feed's lock. `cancelled` stops claiming.
    Windows before byte `start` of the disk, a multiple of WINDOW_SIZE, are left out: their data is neither read nor
    fetched, though the tables are.
    """

    def __init__(
        self,
        source: ImageSource,
        on_claim: Callable[[int, int], Note],
        progress: Progress,
        cancelled: threading.Event | None,
        start: int = 0,
    ) -> None:
        self._source = source
        self._on_claim = on_claim
        self._progress = progress
        self._cancelled = cancelled
        self._start = start
        self._batches = source.extents()
        self._lock = threading.Lock()
        self._plan: Plan | None = None
        self._descriptors = array("i")
        self._prefetch: Prefetch | None = None
        self._next = 0
        self._stopped = False

    def claim(self) -> Claim[Note] | None:
        """Return the next window with data, or None when there is none left or work was stopped. Raises Cancelled."""
        with self._lock:
            if self._cancelled is not None and self._cancelled.is_set():
                raise Cancelled("the work was cancelled")
            while not self._stopped and self._prefetch is None:
                if self._plan is not None and self._next < self._plan.window_count:
                    index = self._next
                    self._next += 1
                    return self._claimed(self._plan, index, self._descriptors, None)
                batch = next(self._batches, None)
                if batch is None:
                    self._stopped = True
                    break
                self._take(Plan(batch, WINDOW_SIZE, DECODED_SIZE_MAX))
            ready = self._prefetch.take() if self._prefetch is not None and not self._stopped else None
            if ready is not None:
                return self._claimed(ready.plan, ready.index, ready.descriptors, ready.slab)
        return None

    def _claimed(self, plan: Plan, index: int, descriptors: array[int], slab: Slab | None) -> Claim[Note]:
        offset, length = plan.window(index)
        self._progress.position_bytes = offset
        return Claim(plan, index, offset, descriptors, slab, self._on_claim(offset, length))

    def stop(self) -> None:
        """Let every later claim return None, and end what is being fetched."""
        self._stopped = True
        prefetch = self._prefetch
        if prefetch is not None:
            prefetch.stop()

    def load(self, claim: Claim[Note], window: Window) -> None:
        """Load and scan the claimed window; raises what is wrong with the source."""
        if claim.slab is None or self._prefetch is None:
            self._load(claim, window, None, None)
            return
        self._prefetch.wait(claim.slab)
        self._load(claim, window, claim.slab.rows(), claim.slab.view[: claim.slab.length])
        self._prefetch.release(claim.slab)

    def _load(self, claim: Claim[Note], window: Window, rows: memoryview | None, data: memoryview | None) -> None:
        try:
            window.load(claim.plan, claim.index, claim.descriptors, rows, data)
        except LoadFailure as failure:
            raise load_error(self._source, failure) from failure

    def _take(self, plan: Plan) -> None:
        self._plan = plan
        self._next = first_window(plan, self._start)
        self._descriptors = descriptors(self._source, plan)
        if self._next < plan.window_count and any(self._descriptors[reader] < 0 for reader in plan.readers()):
            self._prefetch = self._fetching(plan)

    def _fetching(self, plan: Plan) -> Prefetch:
        import weakref

        from dataplane.ingest.prefetch import Prefetch  # files, which most sources are, need none

        prefetch = Prefetch(self._source, self._batches, plan, self._next, descriptors, self._cancelled)
        weakref.finalize(self, prefetch.stop)
        return prefetch


def first_window(plan: Plan, start: int) -> int:
    """Return the index of the first window of `plan` that does not lie before byte `start` of the disk."""
    return bisect_left(range(plan.window_count), start, key=lambda index: plan.window(index)[0])


def descriptors(source: ImageSource, plan: Plan) -> array[int]:
    """Return a file descriptor for each reader that the plan names, -1 for readers without one or not named."""
    found = Descriptors("i", [-1])
    found *= plan.reader_max + 1 or 1
    found.readers = []
    for number in plan.readers():
        reader = source.readers[number]
        fd = reader.fileno()
        if fd is not None:
            found[number] = fd
            found.readers.append(reader)
    return found
