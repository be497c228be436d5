"""Prefetch: what the next windows read over a network is fetched while the ones before them are worked on."""

from __future__ import annotations

import mmap
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from dataplane.dataclass import dataclass
from dataplane.engine.plan import Plan
from dataplane.errors import Cancelled, InvalidImage
from dataplane.extent import WINDOW_SIZE
from dataplane.image_source import ImageSource
from dataplane.ingest.slab import Piece, Slab
from dataplane.ingest.staging import ranges_to_fetch
from dataplane.limits import DECODED_SIZE_MAX, KIB, MIB
from dataplane.readers.scatter import read_into

REQUESTS_MAX = 8
"""Requests for data under way at once."""

REQUEST_SIZE_MAX = 4 * MIB
REQUEST_SIZE_FIRST = 512 * KIB
"""Of the first requests, which share the first window so that work begins sooner."""

MEMORY_MAX = 48 * MIB
"""Bytes fetched, or being fetched, and not yet worked on."""

WINDOWS_MAX = 32
"""Windows planned ahead."""

_LOOK_S = 0.1
"""How often those who wait look whether the work was cancelled."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A window whose bytes are there or on their way. `slab` is None when it reads nothing over a network."""

    plan: Plan
    index: int
    descriptors: array[int]
    slab: Slab | None


class _Request:
    """A range of one reader, and the parts of slabs that it fills one behind the other, `filled` of them so far."""

    __slots__ = ("end", "filled", "offset", "reader", "slabs", "views")

    def __init__(self, reader: int, offset: int) -> None:
        self.reader = reader
        self.offset = self.end = offset
        self.filled = 0
        self.views: list[memoryview] = []
        self.slabs: list[Slab] = []

    def add(self, slab: Slab, view: memoryview) -> None:
        """Append a part."""
        self.views.append(view)
        self.slabs.append(slab)
        self.end += len(view)


class Prefetch:
    """Plans windows ahead, in disk order, and fetches what they read by several requests at once.

    One thread reads the tables, REQUESTS_MAX fetch. No byte is fetched twice for windows that are under way together.
    Failures come out of ``take`` and ``wait`` of the window that they hit, after those before it.
    """

    def __init__(
        self,
        source: ImageSource,
        batches: Iterator[memoryview],
        first: Plan,
        first_window: int,
        descriptors: Callable[[ImageSource, Plan], array[int]],
        cancelled: threading.Event | None,
    ) -> None:
        """Begin with window `first_window` of plan `first`, then what `batches` has left.

        `descriptors` finds those of a plan's readers.
        """
        self._source = source
        self._batches = batches
        self._descriptors = descriptors
        self._cancelled = cancelled
        self._lock = threading.Lock()  # guards everything below
        self._arrived = threading.Condition(self._lock)  # a window is planned, or bytes are there
        self._asked = threading.Condition(self._lock)  # there is a request, or there will be none
        self._room = threading.Condition(self._lock)  # a window is taken, or memory is free
        self._ready: deque[Ready] = deque()
        self._requests: deque[_Request] = deque()
        self._live: list[Slab] = []
        self._spare: list[memoryview] = []  # buffers to use again, since new memory costs time
        self._memory = 0  # bytes of live slabs
        self._requests_made = 0
        self._planned = False
        self._failure: BaseException | None = None  # what comes behind the last window that was planned
        self._failed = False  # a request has
        self._stopped = threading.Event()
        threading.Thread(target=self._plan_all, args=(first, first_window), name="planning", daemon=True).start()
        for number in range(REQUESTS_MAX):
            threading.Thread(target=self._fetch_all, name=f"fetching-{number}", daemon=True).start()

    def take(self) -> Ready | None:
        """Return the next window, or None behind the last or when stopped.

        Raises Cancelled, or what was wrong with the tables once all windows before that place are taken.
        """
        with self._lock:
            self._wait_until(lambda: bool(self._ready) or self._planned)
            if self._stopped.is_set():
                return None
            if not self._ready:
                if self._failure is not None:
                    raise self._failure
                return None
            self._room.notify()
            return self._ready.popleft()

    def wait(self, slab: Slab) -> None:
        """Return when the bytes of `slab` are there. Raises why they are not, or Cancelled."""
        needed = [slab, *(piece.source for piece in slab.pieces)]
        with self._lock:
            self._wait_until(lambda: all(not part.pending or part.error is not None for part in needed))
            if self._stopped.is_set():
                raise Cancelled("the work was stopped")
            error = next((part.error for part in needed if part.error is not None), None)
        if error is not None:
            raise error
        slab.take_pieces()

    def release(self, slab: Slab) -> None:
        """Let go of a slab that ``wait`` has returned for."""
        with self._lock:
            for used in {slab, *(piece.source for piece in slab.pieces)}:
                used.users -= 1
                if used.users == 0:
                    self._live.remove(used)
                    self._memory -= len(used.view)
                    if not self._planned:
                        self._spare.append(used.view)
            slab.pieces.clear()
            self._room.notify()

    def stop(self) -> None:
        """End all threads soon: what they fetch is no longer wanted."""
        self._stopped.set()
        with self._lock:
            self._requests.clear()
            self._wake_all()

    def _wait_until(self, come_true: Callable[[], bool]) -> None:
        """Wait with the lock released until `come_true` or stopped. Raises Cancelled."""
        while not come_true() and not self._stopped.is_set():
            if self._cancelled is not None and self._cancelled.is_set():
                raise Cancelled("the work was cancelled")
            self._arrived.wait(_LOOK_S)

    def _wake_all(self) -> None:
        for condition in (self._arrived, self._asked, self._room):
            condition.notify_all()

    # ---------------------------------------------------------------------------------------------------- planning
    def _plan_all(self, plan: Plan | None, first_window: int) -> None:
        failure: BaseException | None = None
        try:
            while plan is not None and not self._stopped.is_set():
                descriptors = self._descriptors(self._source, plan)
                for index in range(first_window, plan.window_count):
                    if not self._plan_window(plan, index, descriptors):
                        return
                first_window = 0
                batch = next(self._batches, None)
                plan = None if batch is None else Plan(batch, WINDOW_SIZE, DECODED_SIZE_MAX)
        except BaseException as error:  # raised again in the thread that takes windows
            failure = error
        finally:
            with self._lock:
                self._failure = self._failure or failure
                self._planned = True
                self._spare.clear()  # nobody will ask for one again
                self._wake_all()

    def _plan_window(self, plan: Plan, index: int, descriptors: array[int]) -> bool:
        """Queue window `index` and its requests once there is room; False when there is no use."""
        ranges = ranges_to_fetch(plan, index, descriptors)
        length = sum(length for _, _, length in ranges)
        if length > MEMORY_MAX:
            raise InvalidImage(
                f"{self._source.readers[ranges[0][0]].name}: {length} bytes of it stand for {WINDOW_SIZE} bytes of the "
                "disk, which no intact image needs"
            )
        size = -(-length // MIB) * MIB
        with self._lock:
            while not (self._stopped.is_set() or self._failed) and (
                len(self._ready) >= WINDOWS_MAX or (self._memory and self._memory + size > MEMORY_MAX)
            ):
                self._room.wait()
            if self._stopped.is_set() or self._failed:
                return False
            slab = self._new_slab(ranges, size) if ranges else None
            self._ready.append(Ready(plan, index, descriptors, slab))
            self._arrived.notify_all()
        return True

    def _new_slab(self, ranges: list[tuple[int, int, int]], size: int) -> Slab:
        """Return a slab whose requests are queued for what no live slab has."""
        slab = Slab(ranges, self._new_buffer(size))
        for (reader, offset, length), position in zip(slab.ranges, slab.positions, strict=True):
            at = offset
            for start, shared, source, source_at in self._shared((reader, offset, length)):
                self._request(slab, reader, at, start - at, position + at - offset)
                slab.pieces.append(Piece(source, source_at, position + start - offset, shared))
                at = start + shared
            self._request(slab, reader, at, offset + length - at, position + at - offset)
        for source in {piece.source for piece in slab.pieces}:
            source.users += 1
        self._live.append(slab)
        self._memory += len(slab.view)
        return slab

    def _new_buffer(self, size: int) -> memoryview:
        """Return a buffer of `size` bytes or some more, a used one when one fits; all stay within MEMORY_MAX."""
        for number, spare in enumerate(self._spare):
            if size <= len(spare) <= size + size // 2:
                return self._spare.pop(number)
        while self._spare and self._memory + sum(map(len, self._spare)) + size > MEMORY_MAX:
            self._spare.pop(0)
        # Pages come when they are received into. A bytearray would be cleared here, and everybody kept waiting.
        return memoryview(mmap.mmap(-1, size))

    def _shared(self, wanted: tuple[int, int, int]) -> Iterator[tuple[int, int, Slab, int]]:
        """Yield (offset, length, slab, position there) of what live slabs have of a range: in order, each byte once."""
        found = [
            (start, length, number, at)
            for number, slab in enumerate(self._live)
            for start, length, at in slab.overlaps(wanted)
        ]
        position = wanted[1]
        for start, length, number, at in sorted(found):
            skip = max(0, position - start)
            if skip < length:
                yield start + skip, length - skip, self._live[number], at + skip
                position = start + length

    def _request(self, slab: Slab, reader: int, offset: int, length: int, position: int) -> None:
        """Queue requests for `length` bytes from `offset` that belong at `position` of `slab`."""
        if length > 0:
            slab.fetched.append((reader, offset, length, position))
        while length > 0:
            limit = REQUEST_SIZE_FIRST if self._requests_made < REQUESTS_MAX else REQUEST_SIZE_MAX
            part = min(length, limit)
            last = self._requests[-1] if self._requests else None
            if last is None or (last.reader, last.end) != (reader, offset) or last.end - last.offset + part > limit:
                last = _Request(reader, offset)
                self._requests.append(last)
                self._asked.notify()
                self._requests_made += 1
            last.add(slab, slab.view[position : position + part])
            slab.pending += 1
            offset, position, length = offset + part, position + part, length - part

    # ---------------------------------------------------------------------------------------------------- fetching
    def _fetch_all(self) -> None:
        while (request := self._next_request()) is not None:
            error: BaseException | None = None
            try:
                read_into(
                    self._source.readers[request.reader],
                    request.offset,
                    request.views,
                    self._stopped.is_set,
                    partial(self._note_part, request),
                )
            except BaseException as failure:  # raised again in the thread that waits for these bytes
                error = failure
            if error is not None:
                self._fail(request, error)

    def _next_request(self) -> _Request | None:
        """Return the next request, or None when there will be none."""
        with self._lock:
            while not self._requests and not self._planned and not self._stopped.is_set():
                self._asked.wait()
            if self._stopped.is_set() or not self._requests:
                return None
            return self._requests.popleft()

    def _note_part(self, request: _Request) -> None:
        """Note that the next part of a request is there."""
        with self._lock:
            slab = request.slabs[request.filled]
            request.filled += 1
            slab.pending -= 1
            if not slab.pending:
                self._arrived.notify_all()

    def _fail(self, request: _Request, error: BaseException) -> None:
        """Note that a request has failed. Nothing behind it is asked for, while what is before it goes on."""
        with self._lock:
            self._failed = True
            self._failure = self._failure or error  # all of its parts may be there: the end of planning shows it then
            for one in (request, *self._requests):
                for slab in one.slabs[one.filled :]:
                    slab.pending -= 1
                    slab.error = slab.error or error
            self._requests.clear()
            self._arrived.notify_all()
            self._room.notify()
