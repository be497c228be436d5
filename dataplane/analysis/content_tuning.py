"""Content-defined chunks as candidates: what they would take, beside chunks of fixed size, if a store had them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from dataplane.analysis import costs
from dataplane.analysis.content_levels import ContentLevel
from dataplane.analysis.content_trial import ContentTrials
from dataplane.analysis.estimate import estimate_ratio
from dataplane.analysis.profiles import Chunking
from dataplane.analysis.trial import Trial
from dataplane.analysis.verdict import Profile, judge
from dataplane.dataclass import dataclass
from dataplane.engine.codec import CodecProfile
from dataplane.hints import TYPE_CHECKING
from dataplane.image_source import ImageSource
from dataplane.limits import PAGE_CHUNKS

if TYPE_CHECKING:
    from dataplane.analysis.content_levels import Numbers

MANIFEST_EXTRA = 12
"""What a manifest has for each chunk beside its id: an offset of 8 bytes, so that gaps need nothing, and a length."""

INDEX_EXTRA = 4
"""What an index has for each chunk beside the entry of a fixed one: its plain length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentFacts:
    """One average size: the level, its compression trial, and the plain lengths of the chunks that were tried."""

    level: ContentLevel
    trial: Trial
    plain: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentVerdict:
    """The best content-defined profile (None when no index fits the memory) beside the recommended one: whether its
    score is lower, what all scores are, and which profiles do not fit."""

    best: int | None
    pays: bool
    scores: tuple[float, ...]
    excluded: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What content-defined chunks came to; profiles have the fields of fixed ones."""

    facts: tuple[ContentFacts, ...]
    profiles: tuple[Profile, ...]
    verdict: ContentVerdict


def try_level(
    level: ContentLevel, sources: Sequence[ImageSource], codecs: Sequence[CodecProfile], threads: int
) -> ContentFacts:
    """Compress the picked chunks of a level. Raises SourceError or Corrupt."""
    trials = ContentTrials(codecs, threads)
    for number, places in enumerate(level.picks):
        if len(places):
            trials.add(sources[number], places)
    trial, plain = trials.finish()
    return ContentFacts(level=level, trial=trial, plain=plain)


def content_profiles(facts: ContentFacts, codecs: Sequence[str], threads: int) -> Iterator[Profile]:
    """Yield the profiles of one average size."""
    level, trial = facts.level, facts.trial
    data_size = sum(level.data_sizes)
    pages = [-(-count // PAGE_CHUNKS) for count in level.chunks]
    chunking = Chunking(
        chunk_size=level.average,
        images=len(level.chunks),
        data_size=data_size,
        loaded_size=data_size,
        unique_size=level.unique_size.value,
        distinct=round(level.distinct.value),
        pages=sum(pages),
        manifest_size=sum(
            costs.manifest_size(count, own) + MANIFEST_EXTRA * count
            for count, own in zip(level.chunks, pages, strict=True)
        ),
        index_extra=INDEX_EXTRA,
        read_amplification=partial(read_amplification, level),
    )
    for place, codec in enumerate(codecs):
        stored = level.unique_size
        if codec != "none":
            stored = estimate_ratio(trial.lengths[:, place], facts.plain, level.distinct, level.unique_size)
        yield chunking.profile(codec, stored, trial, place, threads)


def read_amplification(level: ContentLevel, request_size: int) -> float:
    """Return bytes decoded for each byte asked, by reads of data at random multiples of 4 KiB.

    A chunk of n bytes, at any offset, is met by (n + request - 1) / 4 KiB of them and decoded whole.
    """
    data_size = sum(level.data_sizes)
    if not data_size:
        return 0.0
    return round((level.squares + data_size * (request_size - 1)) / (data_size * request_size), 4)


def judge_content(
    fixed: Sequence[Profile], content: Sequence[Profile], weights: Mapping[str, float], ram: int | None
) -> ContentVerdict:
    """Weigh fixed and content-defined profiles together."""
    together = judge([*fixed, *content], weights, ram)
    fits = [number for number in range(len(together.scores)) if number not in together.excluded]
    best_fixed = min((together.scores[number] for number in fits if number < len(fixed)), default=None)
    best = min(
        (number for number in fits if number >= len(fixed)), key=lambda number: together.scores[number], default=None
    )
    return ContentVerdict(
        best=None if best is None else best - len(fixed),
        pays=best is not None and (best_fixed is None or together.scores[best] < best_fixed),
        scores=together.scores[len(fixed) :],
        excluded=tuple(number - len(fixed) for number in together.excluded if number >= len(fixed)),
    )
