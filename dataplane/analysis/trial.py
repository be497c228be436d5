"""Trials: chosen chunks are read and compressed, to know what all of them would take and cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from dataplane.analysis.arrays import np
from dataplane.analysis.picking import PickedSource
from dataplane.dataclass import dataclass
from dataplane.engine.codec import CodecProfile, Encoder
from dataplane.engine.scan import DIGEST_SIZE, ChunkState
from dataplane.engine.window import Window
from dataplane.errors import SourceUnavailable
from dataplane.extent import WINDOW_SIZE
from dataplane.hints import TYPE_CHECKING
from dataplane.image_source import ImageSource
from dataplane.ingest.crew import run_crew
from dataplane.ingest.feed import Claim, Feed
from dataplane.ingest.progress import Progress

if TYPE_CHECKING:
    import numpy.typing as npt

    Lengths = npt.NDArray[np.int64]

KEY = bytes(range(DIGEST_SIZE))
"""Chunks are digested as an import does, because the time that takes is part of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of compressing chunks of one size.

    `lengths[i, j]` are the stored bytes of chunk i with codec j. `load_s` and `encode_s[j]` are seconds of processor
    time for each byte: reading and hashing, and encoding.
    """

    lengths: Lengths
    load_s: float
    encode_s: tuple[float, ...]


class Trials:
    """Compresses chunks of one size with each of `codecs`, in `threads` threads; sources one after the other."""

    def __init__(self, chunk_size: int, codecs: Sequence[CodecProfile], threads: int) -> None:
        self._chunk_size = chunk_size
        self._codecs = codecs
        self._threads = threads
        self._lock = threading.Lock()
        self._bytes = 0
        self._load_s = 0.0
        self._encode_s = [0.0] * len(codecs)
        self._parts: list[Lengths] = []

    def add(self, source: ImageSource, offsets: npt.NDArray[np.int64], cancelled: threading.Event | None) -> None:
        """Compress the chunks of `source` at ascending `offsets` (bytes). Raises SourceError, Corrupt or Cancelled."""
        ends = np.minimum(offsets + self._chunk_size, source.virtual_size)
        picked = PickedSource(source, np.stack((offsets, ends), axis=1))
        feed: Feed[None] = Feed(picked, lambda offset, length: None, Progress(), cancelled)
        found: dict[int, Lengths] = {}
        run_crew(lambda: self._work(feed, found), self._threads, feed.stop)
        if len(found) != len(offsets):
            raise SourceUnavailable(f"{source.readers[0].name} changed while it was read: run it again")
        if found:
            self._parts.append(np.stack([found[offset] for offset in offsets.tolist()]))

    def finish(self) -> Trial:
        """Return the results in the order in which chunks were added."""
        nothing = np.empty((0, len(self._codecs)), dtype=np.int64)
        share = 1 / self._bytes if self._bytes else 0.0
        return Trial(
            lengths=np.concatenate([nothing, *self._parts]),
            load_s=self._load_s * share,
            encode_s=tuple(seconds * share for seconds in self._encode_s),
        )

    def _work(self, feed: Feed[None], found: dict[int, Lengths]) -> None:
        window = Window(WINDOW_SIZE, self._chunk_size, KEY)
        room = bytearray(self._chunk_size)
        while True:
            started = time.thread_time()
            claim: Claim[None] | None = feed.claim()
            if claim is None:
                return
            feed.load(claim, window)
            load_s = time.thread_time() - started
            states = np.frombuffer(window.states, dtype=np.uint8)
            chosen = np.flatnonzero(states == ChunkState.DATA)
            lengths = np.empty((len(chosen), len(self._codecs)), dtype=np.int64)
            encode_s = []
            for place, codec in enumerate(self._codecs):
                encoder = Encoder(codec.level)  # one at a time: each has some MiB of tables
                started = time.thread_time()
                for number, at in enumerate((chosen * self._chunk_size).tolist()):
                    lengths[number, place] = encoder.encoded_length(window.plain[at : at + self._chunk_size], room)
                encode_s.append(time.thread_time() - started)
            with self._lock:
                self._bytes += len(chosen) * self._chunk_size
                self._load_s += load_s
                self._encode_s = [total + more for total, more in zip(self._encode_s, encode_s, strict=True)]
                for number, place in enumerate(chosen.tolist()):
                    found[window.offset + place * self._chunk_size] = lengths[number]
