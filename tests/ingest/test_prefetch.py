"""The prefetch: the same windows as from a file, nothing fetched twice, few requests at once, and prompt ends."""

from __future__ import annotations

import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dataplane.byte_reader import ByteReader
from dataplane.engine.window import Window
from dataplane.errors import Cancelled, InvalidImage, SourceUnavailable
from dataplane.extent import WINDOW_SIZE, Extent, ExtentCodec, ExtentKind, pack_batch
from dataplane.formats.probe import open_source
from dataplane.image_source import ImageSource
from dataplane.ingest import prefetch
from dataplane.ingest.feed import Feed
from dataplane.ingest.importing import import_image, prepare_import
from dataplane.ingest.progress import Progress
from dataplane.limits import KIB, MIB
from dataplane.readers.scatter import Targets
from dataplane.store.store import Store
from tests.disks import convert, disk_bytes, write_sparse
from tests.readers.http_server import Handler, serving

CLUSTER = 64 * KIB


class SlowReader(ByteReader):
    """Bytes in memory that take `pause_s` a read; notes what is asked for and how many ask at once."""

    name = "http://host/disk"

    def __init__(self, content: bytes, pause_s: float = 0.0) -> None:
        self.content = content
        self.size = len(content)
        self.pause_s = pause_s
        self.asked: list[tuple[int, int]] = []
        self.at_once = self.at_once_max = 0
        self.fail_from: int | None = None
        self.closed = threading.Event()
        self._lock = threading.Lock()

    def read_at(self, offset: int, length: int) -> bytes:
        with self._lock:
            self.asked.append((offset, length))
            self.at_once += 1
            self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            if self.closed.wait(self.pause_s):
                raise SourceUnavailable(f"{self.name} was closed while it was read")
            if self.fail_from is not None and offset + length > self.fail_from:
                raise SourceUnavailable(f"{self.name}: gone at {offset}")
            return self.content[offset : offset + length]
        finally:
            with self._lock:
                self.at_once -= 1

    def close(self) -> None:
        self.closed.set()


class ListedSource(ImageSource):
    """Extents that a test lists, one batch for each list."""

    format = "raw"

    def __init__(self, reader: ByteReader, *batches: list[Extent], then: Exception | None = None) -> None:
        self.readers = (reader,)
        self.batches = batches
        self.then = then
        self.virtual_size = sum(extent.length for batch in batches for extent in batch)

    def extents(self) -> Iterator[memoryview]:
        for batch in self.batches:
            yield pack_batch(batch)
        if self.then is not None:
            raise self.then


def clusters(places: Sequence[int | None], size: int = CLUSTER) -> list[Extent]:
    """Return extents of one cluster each, at the given places of the file; None is a hole."""
    return [
        Extent(number * size, size, ExtentKind.HOLE)
        if place is None
        else Extent(number * size, size, ExtentKind.DATA, source_offset=place * size, source_length=size)
        for number, place in enumerate(places)
    ]


def load_all(source: ImageSource, feed: Feed[None] | None = None) -> bytes:
    """Return the disk as its windows have it."""
    feed = feed if feed is not None else Feed(source, lambda offset, length: None, Progress(), None)
    window = Window(WINDOW_SIZE, CLUSTER)
    disk = bytearray(source.virtual_size)
    last = -1
    while (claim := feed.claim()) is not None:
        assert claim.offset > last
        last = claim.offset
        feed.load(claim, window)
        for number, state in enumerate(window.states):
            if state not in (0, None):
                at = number * CLUSTER
                end = min(window.offset + at + CLUSTER, source.virtual_size)
                disk[window.offset + at : end] = window.plain[at : at + end - window.offset - at]
    return bytes(disk)


def expected(source: ListedSource, content: bytes) -> bytes:
    disk = bytearray(source.virtual_size)
    for batch in source.batches:
        for extent in batch:
            if extent.kind == ExtentKind.DATA:
                start = extent.source_offset
                disk[extent.offset : extent.offset + extent.length] = content[start : start + extent.length]
    return bytes(disk)


def fetched_twice(reader: SlowReader) -> int:
    """Return how many bytes were asked for more than once."""
    ranges = sorted(reader.asked)
    end = twice = 0
    for offset, length in ranges:
        twice += max(0, min(end, offset + length) - offset)
        end = max(end, offset + length)
    return twice


CONTENT = random.Random(5).randbytes(24 * MIB)
COUNT = len(CONTENT) // CLUSTER


@pytest.mark.parametrize("layout", ["in order", "interleaved", "reversed", "shuffled", "sparse"])
def test_any_layout_gives_the_disk(layout: str) -> None:
    places: list[int | None] = list(range(COUNT))
    half = COUNT // 2
    if layout == "interleaved":
        places = [2 * number if number < half else 2 * (number - half) + 1 for number in range(COUNT)]
    elif layout == "reversed":
        places.reverse()
    elif layout == "shuffled":
        random.Random(1).shuffle(places)
    elif layout == "sparse":
        places = [place if number % 7 == 0 else None for number, place in enumerate(places)]
    reader = SlowReader(CONTENT, 0.002)
    source = ListedSource(reader, clusters(places))
    assert load_all(source) == expected(source, CONTENT)
    assert fetched_twice(reader) == 0
    assert reader.at_once_max <= prefetch.REQUESTS_MAX
    if layout == "in order":
        assert reader.at_once_max > 1
        assert sum(length for _, length in reader.asked) == len(CONTENT)
        assert len(reader.asked) <= 8 + len(CONTENT) // MIB


def test_windows_that_share_a_compressed_piece_fetch_it_once() -> None:
    plain = random.Random(2).randbytes(MIB) + bytes(MIB)
    packed = zlib.compress(plain)
    rows, content, at = [], b"", 0
    for number in range(12):  # each is two halves, a window apart
        content += packed
        rows += [(at, number), (at, number)]
        at += len(packed)
    extents = [
        Extent(number * MIB, MIB, ExtentKind.DATA, ExtentCodec.ZLIB, 0, place, len(packed), (number % 2) * MIB, 2 * MIB)
        for number, (place, _) in enumerate(rows)
    ]
    extents = [extents[0], *extents]  # moved by one, so that pieces lie across windows
    moved = [extent._replace(offset=number * MIB) for number, extent in enumerate(extents)]
    reader = SlowReader(content, 0.01)
    source = ListedSource(reader, moved)
    disk = load_all(source)
    assert disk == plain[:MIB] + plain * 12
    assert fetched_twice(reader) == 0


def test_memory_and_windows_ahead_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "MEMORY_MAX", 9 * MIB)
    reader = SlowReader(CONTENT)
    source = ListedSource(reader, clusters(list(range(COUNT))))
    feed = Feed(source, lambda offset, length: None, Progress(), None)
    assert feed.claim() is not None
    time.sleep(0.2)
    assert sum(length for _, length in reader.asked) == 8 * MIB
    feed.stop()
    assert feed.claim() is None


def test_huge_demand_of_one_window_is_invalid() -> None:
    piece = 8 * MIB
    extents = [
        Extent(at * 4096, 4096, ExtentKind.DATA, ExtentCodec.ZSTD, 0, at * piece, piece, 0, 4 * MIB)
        for at in range(1024)
    ]
    reader = SlowReader(b"")
    with pytest.raises(InvalidImage, match="which no intact image needs"):
        load_all(ListedSource(reader, extents))
    assert reader.asked == []


def run_until_error(feed: Feed[None], loaded: list[int]) -> None:
    window = Window(WINDOW_SIZE, CLUSTER)
    while (claim := feed.claim()) is not None:
        feed.load(claim, window)
        loaded.append(claim.offset)


def test_failure_surfaces_at_its_window_and_ends_the_fetching() -> None:
    reader = SlowReader(CONTENT, 0.005)
    reader.fail_from = 13 * MIB
    feed = Feed(ListedSource(reader, clusters(list(range(COUNT)))), lambda offset, length: None, Progress(), None)
    loaded: list[int] = []
    with pytest.raises(SourceUnavailable, match="gone at"):
        run_until_error(feed, loaded)
    assert loaded == [0, 4 * MIB, 8 * MIB]
    asked = len(reader.asked)
    time.sleep(0.1)
    assert len(reader.asked) == asked


def test_broken_table_surfaces_behind_the_windows_before_it() -> None:
    reader = SlowReader(CONTENT, 0.005)
    source = ListedSource(reader, clusters(list(range(COUNT))), then=InvalidImage("the table is broken"))
    feed = Feed(source, lambda offset, length: None, Progress(), None)
    loaded: list[int] = []
    with pytest.raises(InvalidImage, match="the table is broken"):
        run_until_error(feed, loaded)
    assert loaded == [at * 4 * MIB for at in range(6)]


@pytest.mark.parametrize("how", ["cancelled", "closed", "stopped"])
def test_waiting_worker_ends_soon(how: str) -> None:
    reader = SlowReader(CONTENT, 3)
    cancelled = threading.Event()
    feed = Feed(ListedSource(reader, clusters(list(range(COUNT)))), lambda offset, length: None, Progress(), cancelled)
    act: Callable[[], None] = {"cancelled": cancelled.set, "closed": reader.close, "stopped": feed.stop}[how]
    timer = threading.Timer(0.2, act)
    timer.start()
    started = time.monotonic()
    with pytest.raises((Cancelled, SourceUnavailable)):
        run_until_error(feed, [])
    assert time.monotonic() - started < 1
    reader.close()


def threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("planning", "fetching"))]


def test_no_thread_is_left_behind() -> None:
    for ending in ("whole", "stopped", "dropped"):
        source = ListedSource(SlowReader(CONTENT), clusters(list(range(COUNT)) * 4))
        feed: Feed[None] | None = Feed(source, lambda offset, length: None, Progress(), None)
        assert feed is not None
        if ending == "whole":
            load_all(source, feed)
        else:
            assert feed.claim() is not None
            if ending == "stopped":
                feed.stop()
        feed = None
        deadline = time.monotonic() + 2
        while threads_left() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threads_left() == [], ending


# ------------------------------------------------------------------------------------------------ whole imports by HTTP
@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparse(tmp_path_factory.mktemp("disk") / "disk.raw", disk_bytes(24 * MIB + 5 * KIB))


@pytest.mark.parametrize("kind", ["raw", "qcow2", "qcow2-512", "qcow2-zlib"])
def test_import_by_http_gives_the_same_root(tmp_path: Path, disk: Path, kind: str) -> None:
    options = {"qcow2": [], "qcow2-512": ["-o", "cluster_size=512"], "qcow2-zlib": ["-c"]}.get(kind)
    image = disk if options is None else convert(disk, tmp_path / "image.qcow2", "-O", "qcow2", *options)
    store = Store.create(tmp_path / "store")
    with open_source(disk) as source:
        near = import_image(store, source, name="near")
    with serving(image.read_bytes()) as server:
        with open_source(server.url, allow_source=["127.0.0.1"]) as source:
            far = import_image(store, source, name="far")
        assert far.root == near.root
        assert far.sizes == near.sizes
        sent = sum(int(size) for size in (length_asked(headers) for _, _, headers in server.seen))
        if kind != "qcow2-512":  # its tables lie so densely that what is between them is fetched along
            assert sent <= image.stat().st_size * 1.1 + MIB


def length_asked(headers: dict[str, str]) -> int:
    first, last = headers["Range"].removeprefix("bytes=").split("-")
    return int(last) - int(first) + 1


def test_import_that_is_cancelled_while_the_server_is_silent(tmp_path: Path, disk: Path) -> None:
    def silent(handler: Handler) -> bool:
        if len(handler.server.seen) > 6:
            time.sleep(2)
        return False

    cancelled = threading.Event()
    with (
        serving(disk.read_bytes(), silent) as server,
        Store.create(tmp_path / "store") as store,
        open_source(server.url, allow_source=["127.0.0.1"]) as source,
    ):
        threading.Timer(0.4, cancelled.set).start()
        started = time.monotonic()
        with pytest.raises(Cancelled):
            prepare_import(store, source, cancelled=cancelled)
        assert time.monotonic() - started < 1.5


def test_failure_behind_the_last_part_of_a_request_is_no_end_of_the_disk() -> None:
    """A reader may fill all it was asked for and then find that the answer is wrong."""

    class Lying(SlowReader):
        def read_into(self, offset: int, targets: Targets, given_up: Callable[[], bool]) -> None:
            targets.copy(self.content[offset : offset + targets.length])
            if offset >= 8 * MIB:
                raise SourceUnavailable("more bytes than announced")

    reader = Lying(disk_bytes(90 * MIB))
    source = ListedSource(reader, [Extent(0, reader.size, ExtentKind.DATA, source_length=reader.size)])
    with pytest.raises(SourceUnavailable, match="announced"):
        load_all(source)


def test_windows_of_a_request_do_not_wait_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four windows with 1 MiB each share a request, which stops in the middle until two of them are loaded."""
    monkeypatch.setattr(prefetch, "REQUESTS_MAX", 1)
    planned, loaded = threading.Event(), threading.Event()
    sizes = []

    class Halting(SlowReader):
        def read_into(self, offset: int, targets: Targets, given_up: Callable[[], bool]) -> None:
            sizes.append(targets.length)
            assert planned.wait(60)
            while targets.filled < targets.length:
                start = offset + targets.filled
                assert start < 3 * MIB or loaded.wait(60)
                view = targets.next(MIB)
                view[:] = self.content[start : start + len(view)]
                targets.advance(len(view))

    reader = Halting(disk_bytes(5 * MIB))
    rows = [
        Extent(number * WINDOW_SIZE, MIB, ExtentKind.DATA, source_offset=number * MIB, source_length=MIB)
        for number in range(5)
    ]
    holes = [Extent(row.offset + MIB, WINDOW_SIZE - MIB, ExtentKind.HOLE) for row in rows]
    feed = Feed(
        ListedSource(reader, [extent for pair in zip(rows, holes, strict=True) for extent in pair]),
        lambda offset, length: None,
        Progress(),
        None,
    )
    claims = [feed.claim() for _ in rows]  # all are planned by then
    planned.set()
    window = Window(WINDOW_SIZE, CLUSTER)
    for number, claim in enumerate(claims):
        assert claim is not None
        if number == 3:
            loaded.set()
        feed.load(claim, window)
        assert window.plain[:MIB] == reader.content[number * MIB : (number + 1) * MIB]
    assert max(sizes) >= 3 * MIB
    assert feed.claim() is None
