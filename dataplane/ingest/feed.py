"""The feed: hands the windows of a source to the threads that work on them, in disk order."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from dataplane.engine.plan import Plan
from dataplane.engine.window import LoadFailure, Window
from dataplane.errors import Cancelled, Corrupt, DataplaneError, InvalidImage, SourceUnavailable
from dataplane.extent import WINDOW_SIZE
from dataplane.image_source import ImageSource
from dataplane.ingest.progress import Progress
from dataplane.ingest.staging import NOTHING_STAGED, stage
from dataplane.limits import DECODED_SIZE_MAX
from dataplane.store.stored_image import StoredImage

Note = TypeVar("Note")


@dataclass(frozen=True, slots=True)
class Claim(Generic[Note]):
    """A window that one thread has to work on. `note` is what the feed's owner attached to it."""

    plan: Plan
    index: int
    offset: int
    descriptors: array[int]
    staging_needed: bool
    note: Note


class Feed(Generic[Note]):
    """Windows of `source`, claimed one at a time. Safe for concurrent use; tables are read by whoever needs them.

    `on_claim(offset, length)` runs for each window in disk order, under the feed's lock. `cancelled` stops claiming.
    """

    def __init__(
        self,
        source: ImageSource,
        on_claim: Callable[[int, int], Note],
        progress: Progress,
        cancelled: threading.Event | None,
    ) -> None:
        self._source = source
        self._on_claim = on_claim
        self._progress = progress
        self._cancelled = cancelled
        self._batches = source.extents()
        self._lock = threading.Lock()
        self._plan: Plan | None = None
        self._descriptors = array("i")
        self._staging = False
        self._next = 0
        self._stopped = False

    def claim(self) -> Claim[Note] | None:
        """Return the next window with data, or None when there is none left or work was stopped. Raises Cancelled."""
        with self._lock:
            if self._cancelled is not None and self._cancelled.is_set():
                raise Cancelled("the work was cancelled")
            while not self._stopped:
                if self._plan is not None and self._next < self._plan.window_count:
                    index = self._next
                    self._next += 1
                    offset, length = self._plan.window(index)
                    self._progress.position_bytes = offset
                    return Claim(
                        self._plan, index, offset, self._descriptors, self._staging, self._on_claim(offset, length)
                    )
                batch = next(self._batches, None)
                if batch is None:
                    self._stopped = True
                    break
                self._take(Plan(batch, WINDOW_SIZE, DECODED_SIZE_MAX))
        return None

    def stop(self) -> None:
        """Let every later claim return None."""
        self._stopped = True

    def load(self, claim: Claim[Note], window: Window) -> None:
        """Load and scan the claimed window; raises what is wrong with the source."""
        staged = NOTHING_STAGED
        if claim.staging_needed:
            staged = stage(self._source, claim.plan, claim.index, claim.descriptors)
        try:
            window.load(claim.plan, claim.index, claim.descriptors, staged.rows, staged.data)
        except LoadFailure as failure:
            raise load_error(self._source, failure) from failure

    def _take(self, plan: Plan) -> None:
        self._plan = plan
        self._next = 0
        self._descriptors = descriptors(self._source, plan)
        self._staging = any(self._descriptors[reader] < 0 for reader in plan.readers())


def descriptors(source: ImageSource, plan: Plan) -> array[int]:
    """Return a file descriptor for each reader that the plan names, -1 for readers without one or not named."""
    found = array("i", [-1]) * (plan.reader_max + 1 or 1)
    for reader in plan.readers():
        fd = source.readers[reader].fileno()
        found[reader] = -1 if fd is None else fd
    return found


def load_error(source: ImageSource, failure: LoadFailure) -> DataplaneError:
    """Return the error that says in words why a window could not be loaded."""
    name = source.readers[failure.reader].name
    if isinstance(source, StoredImage):
        return Corrupt(
            f"{name} is damaged or unreadable at {failure.offset}: a chunk does not decode (errno {failure.error})"
        )
    if failure.kind == "cut":
        return InvalidImage(f"{name} is cut short: it ends inside the data that should lie at {failure.offset}")
    if failure.kind == "decode":
        return InvalidImage(f"{name} is damaged: the compressed data at {failure.offset} does not decode")
    return SourceUnavailable(f"{name} cannot be read at {failure.offset}: {os.strerror(failure.error)}")
