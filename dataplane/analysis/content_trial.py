"""Trials of content-defined chunks: chosen ones are read, cut, digested and compressed."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import pairwise

from dataplane.analysis.arrays import np
from dataplane.analysis.logical import read_ranges
from dataplane.analysis.trial import KEY, Trial
from dataplane.engine import gear, scan
from dataplane.engine.codec import CodecProfile, Encoder
from dataplane.hints import TYPE_CHECKING
from dataplane.image_source import ImageSource
from dataplane.ingest.crew import run_crew
from dataplane.limits import MIB

if TYPE_CHECKING:
    from dataplane.analysis.content_levels import Numbers

READ_BYTES = 4 * MIB
"""About so many bytes of chunks are in memory at once."""


class ContentTrials:
    """Compresses chunks of one average size with each of `codecs`, in `threads` threads; sources one after the other.

    Seconds for each byte that is loaded are those of copying it, searching for places to cut, and a store's digest.
    """

    def __init__(self, codecs: Sequence[CodecProfile], threads: int) -> None:
        self._codecs = codecs
        self._threads = threads
        self._lock = threading.Lock()
        self._bytes = 0
        self._load_s = 0.0
        self._encode_s = np.zeros(len(codecs))
        self._lengths: list[list[int]] = []
        self._plain: list[int] = []

    def add(self, source: ImageSource, places: Numbers) -> None:
        """Compress the chunks of `source` at ascending (offset, length). Raises SourceError or Corrupt."""
        edges = np.flatnonzero(np.diff(np.cumsum(places[:, 1]) // READ_BYTES, prepend=0)).tolist()
        for first, last in pairwise([0, *(edge for edge in edges if edge), len(places)]):
            chunks = read_ranges(source, [(offset, length) for offset, length in places[first:last].tolist()])
            # The last chunk of a disk is filled up with zeros to a block.
            padded = [
                chunk.ljust(length, b"\0") for chunk, length in zip(chunks, places[first:last, 1].tolist(), strict=True)
            ]
            started = time.thread_time()
            gear.find(bytes(gear.CONTEXT) + b"".join(padded))  # joining them stands for the reading of an import
            self._load_s += time.thread_time() - started
            run_crew(lambda left=padded: self._work(left), self._threads, padded.clear)  # type: ignore[misc]

    def finish(self) -> tuple[Trial, Numbers]:
        """Return the results, and the plain lengths of the chunks in the same order."""
        share = 1 / self._bytes if self._bytes else 0.0
        lengths = np.array(self._lengths, dtype=np.int64).reshape(-1, len(self._codecs))
        trial = Trial(lengths=lengths, load_s=self._load_s * share, encode_s=tuple((self._encode_s * share).tolist()))
        return trial, np.array(self._plain, dtype=np.int64)

    def _work(self, left: list[bytes]) -> None:
        room = bytearray(max(map(len, left), default=0))
        encoders = [Encoder(codec.level) for codec in self._codecs]
        while True:
            with self._lock:
                if not left:
                    return
                chunk = left.pop()
            started = time.thread_time()
            scan.blake3(chunk, KEY)
            load_s = time.thread_time() - started
            lengths, encode_s = [], []
            for encoder in encoders:
                started = time.thread_time()
                lengths.append(encoder.encoded_length(chunk, room))
                encode_s.append(time.thread_time() - started)
            with self._lock:
                self._bytes += len(chunk)
                self._load_s += load_s
                self._encode_s += encode_s
                self._lengths.append(lengths)
                self._plain.append(len(chunk))
