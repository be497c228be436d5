"""The pipeline: copy, scan, look up, encode, append; and the sizes that fall out on the way."""

from __future__ import annotations

import threading
from array import array

from dataplane.engine.codec import CodecProfile, Encoder
from dataplane.engine.scan import DIGEST_SIZE, ChunkState, blake3
from dataplane.engine.window import Window
from dataplane.errors import SourceUnavailable
from dataplane.extent import WINDOW_SIZE
from dataplane.hints import Protocol
from dataplane.image_source import ImageSource
from dataplane.ingest.accounting import Sizes
from dataplane.ingest.crew import run_crew
from dataplane.ingest.done import Done
from dataplane.ingest.feed import Claim, Feed
from dataplane.ingest.gate import Gate
from dataplane.ingest.progress import Progress
from dataplane.store.manifest import ManifestBuilder

KNOWN_WINDOWS = 8
"""After so many windows without a new chunk the next ones are scanned without being copied. One that does hold a new
chunk is then read twice, which costs six times what a copy does."""


class Sink(Protocol):
    """Where chunks go: a store, or nowhere when only their sizes are asked for. Safe for concurrent use."""

    keeps_manifest: bool
    """Whether manifest pages and the root are appended too."""

    def mark_stored(self, ids: memoryview, states: memoryview) -> tuple[int, int]:
        """Turn NEW states that need not be stored again into STORED; return (how many, their stored bytes)."""

    def append(self, ids: memoryview, stored_lengths: memoryview, plain_length: int, encoded: memoryview) -> None:
        """Take encoded chunks that lie one behind the other, each `plain_length` bytes when decoded."""


class Keeper(Protocol):
    """Who is told now and then what is done so far, so that a later import can go on from there."""

    def is_due(self) -> bool:
        """Tell whether it is time."""

    def keep(self, position: int, root: bytes, storage_size: int) -> None:
        """Take the root of all before byte `position` of the disk, appended to the sink; nothing else is meanwhile.

        `storage_size` is the stored bytes of the distinct chunks that it names.
        """


class Hands:
    """What one thread works with. `known` counts the windows since the last one that held a new chunk."""

    def __init__(self, chunk_size: int, key: bytes, level: int | None) -> None:
        count = WINDOW_SIZE // chunk_size
        self.window = Window(WINDOW_SIZE, chunk_size, key)
        self.encoder = Encoder(level)
        self.encoded = memoryview(bytearray(WINDOW_SIZE))
        self.ids = memoryview(bytearray(count * DIGEST_SIZE))
        self.lengths = memoryview(array("I", bytes(4 * count)))
        self.known = 0


class Pipeline:
    """One source on its way into a sink, with keyed BLAKE3 chunk ids. Used once.

    `done` is what an earlier import has done of it, which is neither read nor counted again.
    """

    def __init__(
        self,
        source: ImageSource,
        sink: Sink,
        *,
        key: bytes,
        domain: str,
        chunk_size: int,
        codec: CodecProfile,
        threads: int,
        progress: Progress,
        cancelled: threading.Event | None,
        done: Done | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        done = done if done is not None else Done()
        self._source = source
        self._sink = sink
        self._key = key
        self._domain = domain
        self._chunk_size = chunk_size
        self._codec = codec
        self._threads = threads
        self._progress = progress
        self._lock = threading.Lock()
        self._table = done.table
        self._totals = done.totals
        self._objects: set[bytes] = set()
        self._manifest = ManifestBuilder(chunk_size, self._store_object)
        self._manifest.restore(done.pages, done.open_page)
        self._keeper = keeper
        self._gate = Gate()
        self._position = progress.resumed_bytes = done.position
        self._feed = Feed(source, self._note_claim, progress, cancelled, done.position)

    def run(self) -> tuple[bytes, Sizes]:
        """Move the source and return (root id, sizes). Raises Cancelled, SourceError, NoSpace, IoFailed or Corrupt."""
        self._progress.total_bytes = self._source.virtual_size
        self._progress.stage = "reading"
        run_crew(self._work, self._threads, self._feed.stop)
        self._progress.position_bytes = self._source.virtual_size
        self._source.check_unchanged()
        root = self._manifest.finish(self._source.virtual_size, self._domain)
        root_id = self._store_object(root.to_bytes())
        sizes = self._totals.sizes(
            virtual_size=self._source.virtual_size, chunk_size=self._chunk_size, codec=str(self._codec)
        )
        return root_id, sizes

    def _note_claim(self, offset: int, length: int) -> None:
        with self._lock:
            self._manifest.claim(offset)
            self._position = offset + WINDOW_SIZE

    def _work(self) -> None:
        hands = Hands(self._chunk_size, self._key, self._codec.level)
        while self._work_on_one(hands):
            if self._keeper is not None and self._keeper.is_due():
                self._keep(self._keeper)

    def _work_on_one(self, hands: Hands) -> bool:
        """Claim a window and work on it; False when there is none left."""
        with self._gate.passing():
            claim = self._feed.claim()
            if claim is None:
                return False
            window = hands.window
            window.scan_only = hands.known >= KNOWN_WINDOWS and claim.slab is None
            self._feed.load(claim, window)
            states = window.states
            distinct = self._table.claim(window.digests, states)
            stored, stored_bytes = self._sink.mark_stored(window.digests, states) if distinct else (0, 0)
            made, used = 0, 0
            hands.known += 1
            if distinct > stored:
                hands.known = 0
                if window.in_place:
                    self._load_again(claim, window)
                made, used = hands.encoder.encode(
                    window.plain, self._chunk_size, window.digests, states, hands.encoded, hands.ids, hands.lengths
                )
                self._sink.append(
                    hands.ids[: made * DIGEST_SIZE], hands.lengths[:made], self._chunk_size, hands.encoded[:used]
                )
            self._finish(claim, window, distinct, made, stored_bytes + used, used)
        return True

    def _load_again(self, claim: Claim[None], window: Window) -> None:
        """Have the bytes of a window that was scanned where it lies, which holds a chunk to be stored after all."""
        digests, states = bytes(window.digests), bytes(window.states)
        window.scan_only = False
        self._feed.load(claim, window)
        if window.first_mismatch(digests) >= 0:
            raise SourceUnavailable(
                f"the source changed between {window.offset} and {window.offset + window.length} while it was read; try"
                " again when it is at rest"
            )
        window.states[:] = states

    def _keep(self, keeper: Keeper) -> None:
        """Hand over what is done so far. Windows under way are waited for: then all before the next claim is done."""
        with self._gate.alone() as alone:
            if alone and keeper.is_due():
                root = self._manifest.so_far(self._source.virtual_size, self._domain)
                keeper.keep(self._position, self._store_object(root.to_bytes()), self._totals.storage_size)

    def _finish(
        self, claim: Claim[None], window: Window, distinct: int, made: int, storage_size: int, written: int
    ) -> None:
        """Note what came of a window, and store the manifest pages that it completes."""
        progress = self._progress
        with self._lock:
            self._totals.add_window(
                data_size=window.data_bytes,
                chunks=window.data_chunks,
                distinct_chunks=distinct,
                storage_size=storage_size,
            )
            progress.read_bytes += window.read_bytes
            progress.zero_bytes += window.zero_chunks * self._chunk_size
            progress.new_bytes += made * self._chunk_size
            progress.duplicate_bytes += (window.data_chunks - made) * self._chunk_size
            progress.written_bytes += written
            numbers = self._manifest.fill(claim.offset, window.digests)
            pages = [(number, page) for number in numbers if (page := self._manifest.take(number)) is not None]
        for number, page in pages:
            self._manifest.store(number, page)

    def _store_object(self, plain: bytes) -> bytes:
        """Store a manifest page or root as a chunk and return its id; it does not count in any size of the image."""
        id = blake3(plain, self._key)
        with self._lock:
            known = id in self._objects
            self._objects.add(id)
        states = memoryview(bytearray([ChunkState.NEW]))
        ids = memoryview(id)
        if self._sink.keeps_manifest and not known and not self._sink.mark_stored(ids, states)[0]:
            encoded = memoryview(Encoder(self._codec.level).encode_bytes(plain))
            self._sink.append(ids, memoryview(array("I", [len(encoded)])), len(plain), encoded)
            with self._lock:
                self._progress.written_bytes += len(encoded)
        return id
