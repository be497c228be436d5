"""Merging: what a sealed layer has and the root below it become one new root.

Only chunks that the layer touches are read, hashed and stored. Of the rest the manifest's ids are read, because
`storage_size` counts every distinct chunk once; pages without a touched chunk are named by the new root as they are.
"""

from __future__ import annotations

import contextlib
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

from dataplane.disks.base import StoredBase, neighbours
from dataplane.disks.block_map import BLOCK_SIZE, BlockState
from dataplane.disks.chunk_cache import ChunkCache
from dataplane.disks.disk import Frozen
from dataplane.disks.layer import Layer
from dataplane.engine.codec import Encoder
from dataplane.engine.scan import DIGEST_SIZE, ChunkState, blake3, is_zero, scan_chunks
from dataplane.engine.table import DigestTable
from dataplane.errors import Cancelled, Corrupt
from dataplane.extent import WINDOW_SIZE
from dataplane.ingest.accounting import RunningTotals, Sizes
from dataplane.ingest.crew import run_crew, thread_count
from dataplane.ingest.importing import PreparedImport, StoreSink
from dataplane.ingest.progress import Progress
from dataplane.ingest.publication import Publication
from dataplane.limits import MIB, PAGE_CHUNKS
from dataplane.store import format as fmt
from dataplane.store.lease import Lease
from dataplane.store.live_index import LiveIndex
from dataplane.store.manifest import data_states
from dataplane.store.pack import PackSet
from dataplane.store.store import Store

FORMAT = "disk"
"""What the images that come from disks say of their source."""

ZERO_PAGE = bytes(fmt.PAGE_SIZE)
CACHE_SIZE = 16 * MIB


def prepare_merge(
    store: Store,
    folder: Path,
    frozen: Frozen,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
) -> PreparedImport:
    """Move what a frozen disk has over its base into packs, durably, and return what is left to pin.

    Raises Cancelled, Corrupt, NoSpace or IoFailed, and leaves no files behind then.
    """
    started = time.monotonic()
    progress = progress if progress is not None else Progress()
    lease = store.lease("snapshot")
    publication = Publication(store, lease)
    try:
        with contextlib.ExitStack() as stack:
            merge = _Merge(store, lease, publication, folder, frozen, progress, cancelled, stack)
            root, sizes = merge.run(thread_count(threads))
        return PreparedImport(
            store, lease, publication, root=root, domain=frozen.domain, source_format=FORMAT, sizes=sizes,
            progress=progress, started=started,
        )  # fmt: skip
    except BaseException:
        publication.withdraw()
        lease.close()
        raise


class _Merge:
    """One merge at work."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        publication: Publication,
        folder: Path,
        frozen: Frozen,
        progress: Progress,
        cancelled: threading.Event | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self._store = store
        self._lease = lease
        self._publication = publication
        self._frozen = frozen
        self._progress = progress
        self._cancelled = cancelled
        self._chunk_size = store.chunk_size
        self._key = store.domain_key(frozen.domain)
        self._layer: Layer | None = None
        if frozen.layer is not None:
            self._layer = Layer.open(folder, frozen.layer, frozen.size, may_write=False)
            stack.callback(self._layer.close)
        self._base: StoredBase | None = None
        if frozen.base_root is not None:
            self._base = StoredBase(store, frozen.base_root, frozen.domain, ChunkCache(CACHE_SIZE))
            if self._base.chunk_size != self._chunk_size:
                raise Corrupt(f"root {frozen.base_root.hex()} has chunks of another size than the store")
        self._touched = self._touched_chunks()
        self._pages: dict[int, bytearray] = {}  # those with touched chunks
        self._kept: dict[int, bytes] = {}  # ids of the others
        self._table = DigestTable(DIGEST_SIZE)
        self._totals = RunningTotals()
        self._lock = threading.Lock()
        self._stopped = False
        self._batches = self._batches_of_touched()
        self._sink: StoreSink | None = None

    def run(self, threads: int) -> tuple[bytes, Sizes]:
        """Do it; return the new root and the sizes of its image."""
        self._progress.stage = "reading"
        self._progress.total_bytes = len(self._touched) * self._chunk_size
        packs = PackSet(self._lease.path, self._key)
        try:
            self._sink = StoreSink(LiveIndex(self._store), packs)
            self._take_base()
            run_crew(self._work, threads, self._stop)
            root = self._finish()
            self._progress.stage = "committing"
            sealed = packs.finish()
        except BaseException:
            packs.abandon()
            raise
        self._publication.publish(sealed)
        sizes = self._totals.sizes(
            virtual_size=self._frozen.size, chunk_size=self._chunk_size, codec=str(self._store.codec)
        )
        return root, sizes

    # ------------------------------------------------------------------------------------------ what there was
    def _touched_chunks(self) -> array[int]:
        """Return the numbers of the chunks in which the layer has anything, ascending."""
        found = array("q")
        if self._layer is None:
            return found
        per_chunk = self._chunk_size // BLOCK_SIZE
        end = -(-self._frozen.size // self._chunk_size)
        following = 0
        count = -(-self._frozen.size // BLOCK_SIZE)
        for run in self._layer.blocks.runs(0, count):
            if run.state == BlockState.BELOW:
                continue
            first = max(following, run.first // per_chunk)
            following = min(end, (run.first + run.length - 1) // per_chunk + 1)
            found.extend(range(first, following))
        return found

    def _take_base(self) -> None:
        """Take over what the layer leaves alone, and count it."""
        touched: dict[int, list[int]] = {}
        for number in self._touched:
            page, place = divmod(number, PAGE_CHUNKS)
            touched.setdefault(page, []).append(place)
        old_pages = dict(self._base.root.pages) if self._base is not None else {}
        for number in sorted(touched.keys() | old_pages.keys()):
            self._check_cancelled()
            ids = (self._base.page(number) if self._base is not None else None) or ZERO_PAGE
            places = touched.get(number)
            if places is None:
                self._kept[number] = old_pages[number]
                self._count_window_sizes(number, ids)
                self._count_distinct(number, ids)
                continue
            cleared = self._pages[number] = bytearray(ids)
            for place in places:
                cleared[place * fmt.ID_SIZE : (place + 1) * fmt.ID_SIZE] = fmt.ZERO_ID
            self._count_distinct(number, bytes(cleared))

    def _count_distinct(self, number: int, ids: bytes) -> None:
        """Count the chunks of a page that were not met before, all of which are stored."""
        states = data_states(ids)
        fresh = self._table.claim(ids, states)
        if not fresh:
            return
        assert self._sink is not None  # noqa: S101 - set by run
        found, stored = self._sink.mark_stored(memoryview(ids), memoryview(states))
        if found != fresh:
            raise Corrupt(f"a chunk of manifest page {number} of the disk's base is in no run of the store")
        self._totals.add_window(data_size=0, chunks=0, distinct_chunks=fresh, storage_size=stored)

    def _count_window_sizes(self, number: int, ids: bytes) -> None:
        """Add what a final page has to the sizes that depend on where chunks lie."""
        states = data_states(ids)
        chunk_size, size = self._chunk_size, self._frozen.size
        per_window = WINDOW_SIZE // chunk_size
        last_chunk = (size - 1) // chunk_size - number * PAGE_CHUNKS
        for first in range(0, PAGE_CHUNKS, per_window):
            chunks = states.count(ChunkState.DATA, first, first + per_window)
            data_size = chunks * chunk_size
            if first <= last_chunk < first + per_window and states[last_chunk] == ChunkState.DATA:
                data_size -= -size % chunk_size
            self._totals.add_window(data_size=data_size, chunks=chunks, distinct_chunks=0, storage_size=0)

    # ------------------------------------------------------------------------------------------ what is new
    def _batches_of_touched(self) -> Iterator[array[int]]:
        """Yield the touched chunks, as many at a time as fit a window."""
        count = WINDOW_SIZE // self._chunk_size
        for at in range(0, len(self._touched), count):
            yield self._touched[at : at + count]

    def _work(self) -> None:
        count = WINDOW_SIZE // self._chunk_size
        plain = memoryview(bytearray(WINDOW_SIZE))
        encoder = Encoder(self._store.codec.level)
        encoded = memoryview(bytearray(WINDOW_SIZE))
        digests = memoryview(bytearray(count * DIGEST_SIZE))
        ids = memoryview(bytearray(count * DIGEST_SIZE))
        lengths = memoryview(array("I", bytes(4 * count)))
        while (numbers := self._claim()) is not None:
            self._read(numbers, plain)
            data = plain[: len(numbers) * self._chunk_size]
            states = memoryview(bytearray([ChunkState.LOADED]) * len(numbers))
            found = digests[: len(numbers) * DIGEST_SIZE]
            scan_chunks(data, self._chunk_size, found, states, self._key)
            self._store_chunks(numbers, data, found, states, encoder, encoded, ids, lengths)

    def _claim(self) -> array[int] | None:
        with self._lock:
            self._check_cancelled()
            return None if self._stopped else next(self._batches, None)

    def _check_cancelled(self) -> None:
        if self._cancelled is not None and self._cancelled.is_set():
            raise Cancelled("the work was cancelled")

    def _stop(self) -> None:
        self._stopped = True

    def _store_chunks(
        self,
        numbers: array[int],
        data: memoryview,
        digests: memoryview,
        states: memoryview,
        encoder: Encoder,
        encoded: memoryview,
        ids: memoryview,
        lengths: memoryview,
    ) -> None:
        """Store those of a batch of chunks that the store lacks, and put the ids of all into their pages."""
        assert self._sink is not None  # noqa: S101 - set by run
        distinct = self._table.claim(digests, states)
        stored, stored_bytes = self._sink.mark_stored(digests, states) if distinct else (0, 0)
        made, used = 0, 0
        if distinct > stored:
            made, used = encoder.encode(data, self._chunk_size, digests, states, encoded, ids, lengths)
            self._sink.append(ids[: made * DIGEST_SIZE], lengths[:made], self._chunk_size, encoded[:used])
        with self._lock:
            self._totals.add_window(data_size=0, chunks=0, distinct_chunks=distinct, storage_size=stored_bytes + used)
            progress = self._progress
            progress.read_bytes += len(data)
            progress.position_bytes += len(data)
            progress.new_bytes += made * self._chunk_size
            progress.written_bytes += used
            for place, number in enumerate(numbers):
                page_number, at = divmod(number, PAGE_CHUNKS)
                self._pages[page_number][at * fmt.ID_SIZE : (at + 1) * fmt.ID_SIZE] = digests[
                    place * DIGEST_SIZE : (place + 1) * DIGEST_SIZE
                ]

    def _read(self, numbers: array[int], plain: memoryview) -> None:
        """Fill `plain` with chunks as they were when the disk was frozen, zeros behind the end of the disk."""
        assert self._layer is not None  # noqa: S101 - there are touched chunks
        per_chunk = self._chunk_size // BLOCK_SIZE
        for first, count in neighbours(list(numbers)):
            for run in self._layer.blocks.runs(first * per_chunk, count * per_chunk):
                start = (run.first - first * per_chunk) * BLOCK_SIZE
                part = plain[start : start + run.length * BLOCK_SIZE]
                if run.state == BlockState.WRITTEN:
                    self._layer.read_into(run.first * BLOCK_SIZE, part)
                elif run.state == BlockState.BELOW and self._base is not None:
                    self._base.read_into(run.first * BLOCK_SIZE, part)
                else:
                    part[:] = bytes(len(part))
            plain = plain[count * self._chunk_size :]

    # ------------------------------------------------------------------------------------------ the new root
    def _finish(self) -> bytes:
        pages = dict(self._kept)
        for number, page in self._pages.items():
            ids = bytes(page)
            self._count_window_sizes(number, ids)
            if not is_zero(ids):
                pages[number] = self._store_object(ids)
        root = fmt.Root(
            virtual_size=self._frozen.size,
            chunk_size=self._chunk_size,
            domain=self._frozen.domain,
            pages=tuple(sorted(pages.items())),
        )
        return self._store_object(root.to_bytes())

    def _store_object(self, plain: bytes) -> bytes:
        """Store a manifest page or root unless the store has it, and return its id."""
        assert self._sink is not None  # noqa: S101 - set by run
        id = blake3(plain, self._key)
        if not self._sink.mark_stored(memoryview(id), memoryview(bytearray([ChunkState.NEW])))[0]:
            encoded = memoryview(Encoder(self._store.codec.level).encode_bytes(plain))
            self._sink.append(memoryview(id), memoryview(array("I", [len(encoded)])), len(plain), encoded)
            self._progress.written_bytes += len(encoded)
        return id
