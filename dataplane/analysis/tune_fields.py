"""What a tuning found, as the fields of its JSON: the report shows nothing that is not here."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from dataplane.analysis.content_fields import content_fields
from dataplane.analysis.strips import strips
from dataplane.analysis.tuning import SizeFacts, Tuning
from dataplane.analysis.verdict import overlap
from dataplane.engine import cpu
from dataplane.engine.scan import chosen_variant

Fields = dict[str, Any]


def tune_fields(tuning: Tuning) -> Fields:
    """Return everything that was found. Sizes are bytes; names that end in ``_low`` and ``_high`` bound 95 %."""
    chosen = tuning.verdict.recommended
    sizes = tuning.options.chunk_sizes
    maps_size = sizes[len(sizes) // 2] if chosen is None else int(tuning.profiles[chosen]["chunk_size"])
    return {
        "complete": tuning.complete,
        "exact": tuning.rate == 1,
        "sample_rate": tuning.rate,
        "seconds": round(tuning.seconds, 3),
        "sources": [
            {
                "name": source.name,
                "format": source.format,
                "virtual_size": source.virtual_size,
                "bytes_read": source.bytes_read,
                "seconds": round(source.seconds, 3),
                "complete": source.complete,
            }
            for source in tuning.sources
        ],
        "sizes": [size_fields(facts, tuning) for facts in tuning.sizes],
        "profiles": [
            {**profile, "score": round(score, 4), "fits": number not in tuning.verdict.excluded}
            for number, (profile, score) in enumerate(zip(tuning.profiles, tuning.verdict.scores, strict=True))
        ],
        "alignment": [
            {
                "source": tuning.sources[one.source].name,
                "first_partition": one.offset,
                "measured": one.measured,
                "gains": {str(size): round(gain, 4) for size, gain in one.gains.items()},
                "warning": one.warns,
            }
            for one in tuning.alignments
        ],
        "maps_chunk_size": maps_size,
        "maps": strips(tuning.logs, [source.virtual_size for source in tuning.sources], maps_size),
        "verdict": verdict_fields(tuning),
        "content_defined": None if tuning.content is None else content_fields(tuning.content, tuning),
        "machine": {
            "threads": tuning.threads,
            "cpu_features": cpu.features(),
            "scan_variant": chosen_variant(),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def size_fields(facts: SizeFacts, tuning: Tuning) -> Fields:
    """Return what was found at one chunk size: data = duplicate + shared + unique, up to the padding of last chunks."""
    level, counts, size = facts.level, facts.level.counts, facts.level.chunk_size
    chunks = sum(occupancy.chunks for occupancy in level.occupancies)
    data_size = sum(occupancy.data_size for occupancy in level.occupancies)
    virtual_size = sum(source.virtual_size for source in tuning.sources)
    inside = int(counts.distinct.sum())
    found: Fields = {
        "chunk_size": size,
        "chunks": chunks,
        "data_size": data_size,
        "zero_size": virtual_size - data_size,
        "duplicate_size": (chunks - inside) * size,
        "shared_size": max(0, inside - counts.total_distinct) * size,
        "unique_size": counts.total_distinct * size,
        "distinct_chunks": counts.total_distinct,
        "distinct_chunks_low": round(level.distinct.low),
        "distinct_chunks_high": round(level.distinct.high),
        "dedup_ratio": round(data_size / (counts.total_distinct * size), 4) if counts.total_distinct else None,
        "sampled_chunks": len(facts.trial.lengths),
        "references": counts.references.tolist(),
        "shared_matrix": (counts.shared * size).tolist(),
        "sources": [
            {
                "name": source.name,
                "chunks": occupancy.chunks,
                "data_size": occupancy.data_size,
                "zero_size": source.virtual_size - occupancy.data_size,
                "distinct_chunks": int(counts.distinct[number]),
                "duplicate_size": (occupancy.chunks - int(counts.distinct[number])) * size,
                "only_here_size": int(counts.only_here[number]) * size,
                "shared_size": int(counts.distinct[number] - counts.only_here[number]) * size,
            }
            for number, (source, occupancy) in enumerate(zip(tuning.sources, level.occupancies, strict=True))
        ],
        "stored_lengths": stored_lengths(facts, tuning.options.codecs),
    }
    if facts.trace is not None:
        found["trace"] = facts.trace
    return found


def stored_lengths(facts: SizeFacts, codecs: tuple[str, ...]) -> Mapping[str, list[int]]:
    """Return, for each codec, how many sampled chunks take up to 10, 20, … 100 % of their plain length."""
    lengths, size = facts.trial.lengths, facts.level.chunk_size
    tenths = (lengths * 10 + size - 1) // size
    return {
        codec: [int((tenths[:, number] == tenth).sum()) for tenth in range(1, 11)]
        for number, codec in enumerate(codecs)
    }


def verdict_fields(tuning: Tuning) -> Fields:
    """Return the recommendation, and what its neighbours would gain and cost: their values less its own."""
    verdict, profiles = tuning.verdict, tuning.profiles
    weights = dict(tuning.options.weights)
    if verdict.recommended is None:
        return {"recommended": None, "weights": weights, "ram": tuning.options.ram, "neighbours": [], "knee": None}
    best = profiles[verdict.recommended]
    axes = ("total_size", "index_memory", "import_seconds", "read_amplification_64k")
    return {
        "recommended": {"chunk_size": best["chunk_size"], "codec": best["codec"]},
        "command": f"dataplane init STORE --chunk-size {best['chunk_size']} --codec {best['codec']}",
        "knee": None if verdict.knee is None else profiles[verdict.knee]["chunk_size"],
        "weights": weights,
        "ram": tuning.options.ram,
        "neighbours": [
            {
                "chunk_size": profiles[number]["chunk_size"],
                "codec": profiles[number]["codec"],
                "fits": number not in verdict.excluded,
                "intervals_overlap": overlap(profiles[number], best),
                **{axis: float(profiles[number][axis]) - float(best[axis]) for axis in axes},
            }
            for number in verdict.neighbours
        ],
    }
