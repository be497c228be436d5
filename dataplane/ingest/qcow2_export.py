"""Writing a stored image as qcow2 in one pass: plain clusters, or compressed ones made of the store's own frames."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Sequence
from pathlib import Path

from dataplane.engine.blockio import write_ranges
from dataplane.engine.codec import Encoder
from dataplane.engine.scan import DIGEST_SIZE, ChunkState
from dataplane.engine.window import Window
from dataplane.formats.qcow2_layout import CLUSTER_SIZE_MAX, Qcow2Layout
from dataplane.ingest.crew import run_crew
from dataplane.ingest.feed import Claim
from dataplane.ingest.progress import Progress
from dataplane.ingest.qcow2_file import Qcow2File
from dataplane.ingest.turns import Turns
from dataplane.ingest.verified_windows import Promise, Stage, VerifiedWindows
from dataplane.store.layout import naming
from dataplane.store.stored_image import StoredImage

LEVEL_DEFAULT = 1
"""The zstd level for compressing what the store keeps uncompressed."""

DATA_TO_NEW = bytes.maketrans(bytes([ChunkState.DATA]), bytes([ChunkState.NEW]))


class Qcow2Export:
    """One export into a new file. The bytes of the file do not depend on how many threads write it.

    Clusters are as large as the store's chunks (2 MiB for larger ones). Compressed, a chunk that is one zstd frame in
    its pack becomes one cluster with the very bytes of that frame, once they have been decoded and verified. Chunks
    that are stored as they are stay so, too, unless the store keeps all of them like that.
    """

    def __init__(
        self,
        image: StoredImage,
        fd: int,
        path: Path,
        *,
        compressed: bool,
        level: int | None,
        progress: Progress,
        cancelled: threading.Event | None,
    ) -> None:
        """`level` is the zstd level of the store, None when it does not compress. Raises UsageError for too large a
        disk."""
        self._windows = VerifiedWindows(image, progress, cancelled)
        self._chunk_size = image.root.chunk_size
        self._layout = Qcow2Layout(
            virtual_size=image.virtual_size, cluster_size=min(self._chunk_size, CLUSTER_SIZE_MAX)
        )
        self._file = Qcow2File(fd, self._layout, zstd=compressed)
        self._fd = fd
        self._path = path
        self._compressed = compressed
        self._copies = compressed and level is not None and self._layout.cluster_size == self._chunk_size
        self._level = level or LEVEL_DEFAULT
        self._progress = progress
        self._turns = Turns()
        self._lock = threading.Lock()
        self.bytes_written = 0

    def run(self, threads: int) -> None:
        """Write everything; raises Corrupt, NoSpace, IoFailed or Cancelled."""
        run_crew(self._work, threads, self._stop)
        with naming(self._path, "writing"):
            self._file.finish()
        self._progress.position_bytes = self._layout.virtual_size

    def _stop(self) -> None:
        self._windows.stop()
        self._turns.stop()

    def _work(self) -> None:
        window = self._windows.window()
        maker = FrameMaker(self._level, self._layout.cluster_size)
        stage = Stage()
        while (claim := self._windows.claim()) is not None:
            if self._copies and claim.slab is None:
                self._windows.load_staged(claim, window, stage)
                self._write_frames(claim, window, stage)
            else:
                self._windows.load(claim, window)
                if self._compressed:
                    self._write(claim, *maker.frames(window))
                else:
                    self._write(claim, *maker.clusters(window))
            with self._lock:
                self._progress.read_bytes += window.read_bytes

    def _write_frames(self, claim: Claim[Promise], window: Window, stage: Stage) -> None:
        """Write what `stage` has; but the last chunk of a disk that ends inside it, whose form there may be cut, from
        the window."""
        chunks, positions, lengths = claim.note.data_chunks(), stage.positions, stage.lengths
        data = stage.data
        if window.length % self._chunk_size and chunks[-1] == window.chunk_count - 1:
            last = len(data)
            data = data + window.plain[chunks[-1] * self._chunk_size :]
            positions, lengths = [*positions[:-1], last], [*lengths[:-1], self._chunk_size]
        self._write(claim, chunks, positions, lengths, data)

    def _write(
        self,
        claim: Claim[Promise],
        clusters: Sequence[int],
        positions: Sequence[int],
        lengths: Sequence[int],
        data: bytearray | memoryview,
    ) -> None:
        """Write clusters of the window: `clusters` counts from its start, `positions` and `lengths` are in `data`."""
        first = claim.offset // self._layout.cluster_size
        with self._turns.turn(claim.note.number) as mine, naming(self._path, "writing"):
            if not mine:
                return
            offsets = self._file.place([first + cluster for cluster in clusters], lengths)
        rows = merged_rows(offsets, lengths, positions)
        with naming(self._path, "writing"):
            write_ranges(self._fd, rows, data)
        with self._lock:
            self.bytes_written += sum(lengths)
            self._progress.written_bytes = self.bytes_written


class FrameMaker:
    """Turns the plain chunks of a window into clusters. Used by one thread; results are good until the next call."""

    def __init__(self, level: int, cluster_size: int) -> None:
        self._level = level
        self._cluster_size = cluster_size
        self._encoder: Encoder | None = None
        self._encoded = bytearray()

    def clusters(self, window: Window) -> tuple[list[int], list[int], list[int], memoryview]:
        """Return (clusters, positions, lengths, bytes) of the window's data as it is."""
        size = self._cluster_size
        found = self._data_clusters(window)
        return found, [cluster * size for cluster in found], [size] * len(found), window.plain

    def frames(self, window: Window) -> tuple[list[int], list[int], list[int], bytearray]:
        """Return (clusters, positions, lengths, bytes) of the window's data compressed, where that makes it smaller."""
        found = self._data_clusters(window)
        plain, count = window.plain, len(window.plain) // self._cluster_size
        if self._encoder is None:
            self._encoder = Encoder(self._level)
        if len(self._encoded) < len(plain):
            self._encoded = bytearray(len(plain))
        lengths = array("I", bytes(4 * count))
        ids = bytearray(DIGEST_SIZE * count)
        states = self._states(window)
        self._encoder.encode(plain, self._cluster_size, bytes(DIGEST_SIZE * count), states, self._encoded, ids, lengths)
        positions, position = [], 0
        for length in lengths[: len(found)]:
            positions.append(position)
            position += length
        return found, positions, lengths[: len(found)].tolist(), self._encoded

    def _states(self, window: Window) -> bytes:
        """Return one state a cluster, NEW for those that hold data and begin before the end of the disk."""
        per_chunk = window.chunk_size // self._cluster_size
        states = bytes(window.states).translate(DATA_TO_NEW)
        if per_chunk > 1:
            states = bytes(state for state in states for _ in range(per_chunk))
        inside = -(-window.length // self._cluster_size)
        return states[:inside] + bytes([ChunkState.ABSENT]) * (len(states) - inside)

    def _data_clusters(self, window: Window) -> list[int]:
        return [number for number, state in enumerate(self._states(window)) if state == ChunkState.NEW]


def merged_rows(offsets: Sequence[int], lengths: Sequence[int], positions: Sequence[int]) -> memoryview:
    """Return int64 rows (file offset, length, position) for ``write_ranges``, neighbours in both places as one."""
    rows = array("q")
    next_offset = next_position = -1
    for offset, length, position in zip(offsets, lengths, positions, strict=True):
        if (offset, position) == (next_offset, next_position):
            rows[-2] += length
        else:
            rows.extend((offset, length, position))
        next_offset, next_position = offset + length, position + length
    return memoryview(rows).cast("B").cast("q", (len(rows) // 3, 3))
