"""What content-defined chunks came to, as fields of the JSON of a tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dataplane.analysis.content_tuning import Content, ContentFacts
from dataplane.analysis.verdict import overlap

if TYPE_CHECKING:
    from dataplane.analysis.tuning import Tuning

Fields = dict[str, Any]


def content_fields(content: Content, tuning: Tuning) -> Fields:
    """Return sizes, profiles and verdict, named as those of fixed chunks; ``chunk_size`` is an average."""
    return {
        "sizes": [size_fields(facts, tuning) for facts in content.facts],
        "profiles": [
            {**profile, "score": round(score, 4), "fits": number not in content.verdict.excluded}
            for number, (profile, score) in enumerate(zip(content.profiles, content.verdict.scores, strict=True))
        ],
        "verdict": verdict_fields(content, tuning),
    }


def size_fields(facts: ContentFacts, tuning: Tuning) -> Fields:
    """Return what was found at one average size: data = duplicate + shared + unique.

    Data are whole chunks: zeros between data that are shorter than the smallest chunk are among them.
    """
    level = facts.level
    chunks, data_size = sum(level.chunks), sum(level.data_sizes)
    unique, inside = round(level.unique_size.value), sum(level.distinct_sizes)
    found: Fields = {
        "chunk_size": level.average,
        "mean_size": round(data_size / chunks) if chunks else None,
        "chunks": chunks,
        "data_size": data_size,
        "zero_size": max(0, sum(source.virtual_size for source in tuning.sources) - data_size),
        "duplicate_size": data_size - inside,
        "shared_size": max(0, inside - unique),
        "unique_size": unique,
        "distinct_chunks": round(level.distinct.value),
        "distinct_chunks_low": round(level.distinct.low),
        "distinct_chunks_high": round(level.distinct.high),
        "dedup_ratio": round(data_size / unique, 4) if unique else None,
        "sampled_chunks": len(facts.plain),
    }
    if level.trace is not None:
        found["trace"] = level.trace
    return found


def verdict_fields(content: Content, tuning: Tuning) -> Fields:
    """Return whether content-defined chunks would pay: the best of them beside the recommended fixed ones."""
    best, fixed = content.verdict.best, tuning.verdict.recommended
    if best is None:
        return {"pays": False, "best": None, "saved_size": None, "saved_share": None, "intervals_overlap": False}
    one = content.profiles[best]
    saved = None if fixed is None else int(tuning.profiles[fixed]["total_size"]) - int(one["total_size"])
    beside = None if fixed is None else int(tuning.profiles[fixed]["total_size"])
    return {
        "pays": content.verdict.pays,
        "best": {"chunk_size": one["chunk_size"], "codec": one["codec"]},
        "total_size": one["total_size"],
        "index_memory": one["index_memory"],
        "saved_size": saved,
        "saved_share": round(saved / beside, 4) if saved is not None and beside else None,
        "intervals_overlap": fixed is not None and overlap(one, tuning.profiles[fixed]),
    }
