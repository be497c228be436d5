"""Sampling a disk that lies behind a network: only maps and some pieces are fetched.

Which chunks repeat cannot be seen in a sample, only guessed from those that repeat within it. Chunks are taken to fall
into classes by how often they occur; the sizes of the classes are those under which the sample is most likely. A
jackknife over groups of pieces gives the interval. Repeats that lie side by side, and chunks that occur a few times on
a disk of which one per cent is fetched, mislead it: the interval is a judgement, not a proof.
"""

from __future__ import annotations

import math
import threading

from dataplane.analysis.arrays import np
from dataplane.analysis.estimate import Estimate, student95
from dataplane.analysis.picking import PickedSource
from dataplane.analysis.trial import KEY
from dataplane.dataclass import dataclass
from dataplane.engine.codec import CodecProfile, Encoder
from dataplane.engine.scan import DIGEST_SIZE, ChunkState
from dataplane.engine.window import Window
from dataplane.extent import COLUMN_COUNT, COLUMNS, WINDOW_SIZE, ExtentKind
from dataplane.hints import TYPE_CHECKING
from dataplane.image_source import ImageSource
from dataplane.ingest.crew import run_crew
from dataplane.ingest.feed import Feed
from dataplane.ingest.progress import Progress
from dataplane.limits import KIB

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Numbers = npt.NDArray[np.int64]

UNIT_SIZE = 256 * KIB
"""What is fetched or not, a chunk at least: smaller requests cost more, larger ones leave fewer to judge by."""

GROUPS = 20
"""Of the jackknife."""

CLASSES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512, 1024, 4096, 16384)
"""How often chunks may occur."""

ROUNDS = 400
"""Of the fit: each makes the sample more likely, the last ones by nearly nothing."""

UNSEEN_PAIRS = 3.0
"""With 95 % confidence no more were expected where none was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSizes:
    """Estimates for one disk, in bytes and chunks."""

    data_size: Estimate
    storage_size: Estimate
    chunks: Estimate
    distinct_chunks: Estimate


@dataclass(slots=True)
class Seen:
    """Chunks that were fetched: the number of each one's digest, its unit, and the stored length of each digest."""

    digests: Numbers
    units: Numbers
    lengths: Numbers


def measure_remotely(
    source: ImageSource, share: float, chunk_size: int, codec: CodecProfile, threads: int, seed: int,
    progress: Progress, cancelled: threading.Event | None,
) -> RemoteSizes:  # fmt: skip
    """Fetch about `share` of the data of a disk and return what that lets one expect. Raises as reading does."""
    unit = max(UNIT_SIZE, chunk_size)
    units = data_units(source, unit)
    count = min(len(units), max(round(len(units) * share), 2 * GROUPS))
    chosen = np.sort(np.random.default_rng(seed).choice(units, count, replace=False)) if count else units
    seen = fetch(source, chosen, unit, chunk_size, codec, threads, progress, cancelled)
    rate = count / len(units) if len(units) else 1.0
    return estimate(seen, chosen, rate, chunk_size)


def data_units(source: ImageSource, unit: int) -> Numbers:
    """Return the ascending numbers of the units in which the format's map has data."""
    kind, offset, length = (COLUMNS.index(name) for name in ("kind", "offset", "length"))
    found = [np.empty(0, dtype=np.int64)]
    for batch in source.extents():
        rows = np.asarray(batch, dtype=np.int64).reshape(-1, COLUMN_COUNT)
        rows = rows[rows[:, kind] == ExtentKind.DATA]
        first, last = rows[:, offset] // unit, (rows[:, offset] + rows[:, length] - 1) // unit
        counts = last - first + 1
        found.append(
            np.unique(
                np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
            )
        )
    return np.unique(np.concatenate(found))


def fetch(
    source: ImageSource, units: Numbers, unit: int, chunk_size: int, codec: CodecProfile, threads: int,
    progress: Progress, cancelled: threading.Event | None,
) -> Seen:  # fmt: skip
    """Fetch and compress the chunks of the chosen units."""
    ranges = np.stack((units * unit, np.minimum((units + 1) * unit, source.virtual_size)), axis=1)
    progress.total_bytes, progress.stage = source.virtual_size, "reading"
    feed: Feed[None] = Feed(PickedSource(source, ranges), lambda offset, length: None, progress, cancelled)
    lock = threading.Lock()
    numbers: dict[bytes, int] = {}
    lengths: list[int] = []
    digests: list[int] = []
    owners: list[int] = []

    def work() -> None:
        window, encoder = Window(WINDOW_SIZE, chunk_size, KEY), Encoder(codec.level)
        while (claim := feed.claim()) is not None:
            feed.load(claim, window)
            ids, states = bytes(window.digests), bytes(window.states)
            for place in range(len(states)):
                if states[place] != ChunkState.DATA:
                    continue
                digest = ids[place * DIGEST_SIZE : (place + 1) * DIGEST_SIZE]
                with lock:
                    number = numbers.setdefault(digest, len(numbers))
                    fresh = number == len(lengths)
                    if fresh:
                        lengths.append(0)
                    digests.append(number)
                    owners.append((window.offset + place * chunk_size) // unit)
                if fresh:
                    plain = window.plain[place * chunk_size : (place + 1) * chunk_size]
                    lengths[number] = len(encoder.encode_bytes(plain))
            with lock:
                progress.read_bytes += window.read_bytes

    run_crew(work, threads, feed.stop)
    source.check_unchanged()
    progress.position_bytes, progress.stage = source.virtual_size, "done"
    return Seen(np.array(digests, dtype=np.int64), np.array(owners, dtype=np.int64), np.array(lengths, dtype=np.int64))


def estimate(seen: Seen, chosen: Numbers, rate: float, chunk_size: int) -> RemoteSizes:
    """Return estimates and their intervals; exact when everything was fetched."""
    whole = scaled(seen.digests, seen.lengths, rate)
    if rate >= 1:
        chunks, distinct, stored = (Estimate.exact(value) for value in whole)
    else:
        group = np.searchsorted(chosen, seen.units) % GROUPS
        left_out = [scaled(seen.digests[group != g], seen.lengths, rate * (1 - 1 / GROUPS)) for g in range(GROUPS)]
        unseen = UNSEEN_PAIRS / rate**2 if len(seen.lengths) == len(seen.digests) else 0.0
        chunks, distinct, stored = (
            around(value, np.array([one[place] for one in left_out]), rate) for place, value in enumerate(whole)
        )
        share_left = max(0.0, 1 - unseen / distinct.value) if distinct.value else 1.0
        distinct = Estimate(distinct.value, distinct.low * share_left, distinct.high)
        stored = Estimate(stored.value, stored.low * share_left, stored.high)
    data = Estimate(chunks.value * chunk_size, chunks.low * chunk_size, chunks.high * chunk_size)
    return RemoteSizes(data_size=data, storage_size=stored, chunks=chunks, distinct_chunks=distinct)


def around(value: float, left_out: Floats, rate: float) -> Estimate:
    """Return an estimate with the interval that a jackknife gives."""
    variance = (GROUPS - 1) / GROUPS * float(((left_out - left_out.mean()) ** 2).sum()) * (1 - rate)
    half = student95(GROUPS - 1) * math.sqrt(variance)
    return Estimate(value, max(0.0, value - half), value + half)


def scaled(digests: Numbers, lengths: Numbers, rate: float) -> tuple[float, float, float]:
    """Return estimates of all chunks, distinct ones and their stored bytes; `rate` is the chance of being fetched."""
    if not len(digests):
        return 0.0, 0.0, 0.0
    times = np.bincount(digests, minlength=len(lengths))
    met = times > 0
    if times.max() == 1:
        return len(digests) / rate, len(digests) / rate, float(lengths[met].sum()) / rate
    weights = weights_by_times(times[met], rate)
    return len(digests) / rate, float(weights.sum()), float((weights * lengths[met]).sum())


def weights_by_times(times: Numbers, rate: float) -> Floats:
    """Return how many distinct chunks of the disk each one stands for that was met so many times."""
    if rate >= 1:
        return np.ones(len(times))
    values, inverse, counts = np.unique(times, return_inverse=True, return_counts=True)
    chance = np.array([[binomial(int(value), int(size), rate) for value in values] for size in CLASSES])
    seen = 1 - (1 - rate) ** np.array(CLASSES)
    sizes = np.full(len(CLASSES), counts.sum() / len(CLASSES))  # distinct chunks of each class
    for _ in range(ROUNDS):
        expected = np.maximum(sizes @ chance, 1e-300)
        sizes = sizes * (chance @ (counts / expected)) / seen
    expected = np.maximum(sizes @ chance, 1e-300)
    members = sizes[:, None] * chance / expected  # how likely each class is behind each number of times
    return np.asarray((members / seen[:, None]).sum(axis=0)[inverse])


def binomial(times: int, size: int, rate: float) -> float:
    """Return the chance that `times` of `size` are met when each is with chance `rate`."""
    if times > size:
        return 0.0
    log = math.lgamma(size + 1) - math.lgamma(times + 1) - math.lgamma(size - times + 1)
    return math.exp(log + times * math.log(rate) + (size - times) * math.log1p(-rate))
