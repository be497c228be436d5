"""Copying an image of a store into another dedup domain, where every chunk has another id."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from dataplane.ingest.crew import run_crew, thread_count
from dataplane.ingest.importing import PreparedImport, prepare_import
from dataplane.ingest.progress import Progress
from dataplane.ingest.verified_windows import VerifiedWindows
from dataplane.store.store import Store
from dataplane.store.stored_image import StoredImage


class CheckedImage(StoredImage):
    """A stored image whose chunks were all compared with their ids a moment ago: it need not remember them."""

    def extents(self) -> Iterator[memoryview]:
        """Yield what the image yields; the ids of one page at a time are kept."""
        for batch in super().extents():
            self._ids.clear()
            yield batch


def prepare_copy(
    store: Store,
    name: str,
    *,
    domain: str,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> PreparedImport:
    """Move image `name` of the store into dedup domain `domain`, durably, and return what is left to pin.

    Every chunk is read twice: first to compare it with its id, because under another id damage would pass for content.
    Raises NotFound, Corrupt (nothing was copied), Cancelled, NoSpace or IoFailed.
    """
    with store.reading(name) as pin:
        with StoredImage(store, pin.root, pin.domain) as image:
            verify(image, thread_count(threads), cancelled)
        with CheckedImage(store, pin.root, pin.domain) as image:
            return prepare_import(store, image, domain=domain, threads=threads, progress=progress, cancelled=cancelled)


def verify(image: StoredImage, threads: int, cancelled: threading.Event | None) -> None:
    """Read every chunk of the image and compare it with its id. Raises Corrupt or Cancelled."""
    windows = VerifiedWindows(image, Progress(), cancelled)

    def work() -> None:
        window = windows.window()
        while (claim := windows.claim()) is not None:
            windows.load(claim, window)

    run_crew(work, threads, windows.stop)
