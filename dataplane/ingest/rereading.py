"""Reading an export again: every chunk of what was written, hashed and compared with the image's manifest."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from dataplane.engine.window import Window
from dataplane.errors import Corrupt, SourceError
from dataplane.extent import WINDOW_SIZE
from dataplane.formats.probe import open_source
from dataplane.formats.raw import RawSource
from dataplane.image_source import ImageSource
from dataplane.ingest.crew import run_crew
from dataplane.ingest.feed import Feed
from dataplane.ingest.progress import Progress
from dataplane.limits import PAGE_CHUNKS
from dataplane.readers.file import FileReader
from dataplane.store import format as fmt
from dataplane.store.stored_image import StoredImage


class Manifest:
    """The ids of an image's chunks, asked for in disk order. Raises Corrupt when what is passed over is not zeros."""

    def __init__(self, pages: Iterator[tuple[int, bytes]], chunk_size: int) -> None:
        self._pages = pages
        self._chunk_size = chunk_size
        self._next = next(pages, None)
        self._page = -1
        self._ids = bytes(fmt.PAGE_SIZE)
        self._seen = PAGE_CHUNKS  # chunks of the page that were asked for or passed over

    def take(self, offset: int, count: int) -> memoryview:
        """Return the ids (32 bytes each) of `count` chunks from `offset`, all in one page."""
        page, first = divmod(offset // self._chunk_size, PAGE_CHUNKS)
        if page != self._page:
            self._leave_page()
            self._pass_pages_before(page)
            self._page, self._seen, self._ids = page, 0, bytes(fmt.PAGE_SIZE)
            if self._next is not None and self._next[0] == page:
                self._ids, self._next = self._next[1], next(self._pages, None)
        self._pass(first)
        self._seen = first + count
        return memoryview(self._ids)[first * fmt.ID_SIZE : self._seen * fmt.ID_SIZE]

    def finish(self) -> None:
        """Pass over the rest of the disk."""
        self._leave_page()
        if self._next is not None:
            self._pass_pages_before(self._next[0] + 1)

    def _leave_page(self) -> None:
        self._pass(PAGE_CHUNKS)

    def _pass(self, stop: int) -> None:
        """Pass over chunks of the page before `stop`."""
        for chunk in range(self._seen, stop):
            if self._ids[chunk * fmt.ID_SIZE : (chunk + 1) * fmt.ID_SIZE] != fmt.ZERO_ID:
                raise Corrupt(f"zeros where the image has data, at {self._place(chunk)}")

    def _pass_pages_before(self, page: int) -> None:
        if self._next is not None and self._next[0] < page:  # pages that are listed hold something
            self._page, self._ids = self._next
            self._seen = 0
            self._leave_page()

    def _place(self, chunk: int) -> int:
        return (self._page * PAGE_CHUNKS + chunk) * self._chunk_size


class Rereading:
    """One comparison of a written target with the image it was made from."""

    def __init__(
        self, image: StoredImage, written: ImageSource, progress: Progress, cancelled: threading.Event | None
    ) -> None:
        self._chunk_size = image.root.chunk_size
        self._key = image.key
        self._manifest = Manifest(image.pages(), self._chunk_size)
        self._feed: Feed[memoryview] = Feed(written, self._promise, progress, cancelled)

    def run(self, threads: int) -> None:
        """Compare everything; raises Corrupt for the first difference found, SourceError when it cannot be read."""
        run_crew(self._work, threads, self._feed.stop)
        self._manifest.finish()

    def _promise(self, offset: int, length: int) -> memoryview:
        return self._manifest.take(offset, -(-length // self._chunk_size))

    def _work(self) -> None:
        window = Window(WINDOW_SIZE, self._chunk_size, self._key)
        while (claim := self._feed.claim()) is not None:
            self._feed.load(claim, window)
            wrong = window.first_mismatch(claim.note)
            if wrong >= 0:
                raise Corrupt(f"other data than the image has, at {window.offset + wrong * self._chunk_size}")


class FrontReader(FileReader):
    """The first bytes of a file or device: a device may be larger than the image on it."""

    def __init__(self, path: str | os.PathLike[str], size: int) -> None:
        super().__init__(path)
        self.size = min(size, self.size)


def reread(
    image: StoredImage,
    path: os.PathLike[str],
    format: str,
    *,
    name: str,
    threads: int,
    progress: Progress,
    cancelled: threading.Event | None,
) -> None:
    """Raise Corrupt, speaking of `name`, unless what was written at `path` is the image. Holes are taken for zeros."""
    progress.stage = "verifying"
    progress.position_bytes = 0
    try:
        with open_written(path, format, image.virtual_size) as written:
            if written.virtual_size != fmt.round_up(image.virtual_size, 512):
                raise Corrupt(f"{written.virtual_size} bytes instead of {image.virtual_size}")
            Rereading(image, written, progress, cancelled).run(threads)
    except (Corrupt, SourceError) as error:
        raise Corrupt(f"{name} does not read back as it was written: {error}") from error
    progress.position_bytes = image.virtual_size


def open_written(path: os.PathLike[str], format: str, size: int) -> ImageSource:
    """Open what was written, of which a raw disk has `size` bytes."""
    if format == "raw":
        return RawSource(FrontReader(path, size))
    return open_source(str(path), format=format)
