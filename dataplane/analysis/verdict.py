"""The verdict: which profile to use, and why not another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dataplane.dataclass import dataclass

AXES = {"space": "total_size", "memory": "index_memory", "speed": "import_seconds", "read": "read_amplification_64k"}
"""What a weight is given to, and the field of a profile that measures it; less is better in all of them."""

WEIGHTS_DEFAULT = {"space": 4.0, "memory": 1.0, "speed": 1.0, "read": 1.0}

Profile = Mapping[str, float | int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Indexes into the profiles that were judged. `knee` is the profile with the recommended codec behind which smaller
    chunks save less than they cost (None with fewer than three sizes); `excluded` do not fit the memory."""

    recommended: int | None
    knee: int | None
    neighbours: tuple[int, ...]
    excluded: tuple[int, ...]
    scores: tuple[float, ...]


def judge(profiles: Sequence[Profile], weights: Mapping[str, float], ram: int | None) -> Verdict:
    """Weigh the profiles.

    A score is the weighted sum over the axes of how many doublings a profile is above the best one; the lowest wins.
    With `ram` (bytes) profiles whose index needs more are out.
    """
    best = {
        axis: min((float(p[field]) for p in profiles if float(p[field]) > 0), default=1.0)
        for axis, field in AXES.items()
    }
    scores = tuple(
        sum(weights.get(axis, 0.0) * doublings(float(p[field]), best[axis]) for axis, field in AXES.items())
        for p in profiles
    )
    excluded = tuple(i for i, p in enumerate(profiles) if ram is not None and float(p["index_memory"]) > ram)
    left = [i for i in range(len(profiles)) if i not in excluded]
    if not left:
        return Verdict(recommended=None, knee=None, neighbours=(), excluded=excluded, scores=scores)
    chosen = min(left, key=lambda i: (scores[i], i))
    same_codec = [i for i, p in enumerate(profiles) if p["codec"] == profiles[chosen]["codec"]]
    place = same_codec.index(chosen)
    neighbours = tuple(same_codec[i] for i in (place - 1, place + 1) if 0 <= i < len(same_codec))
    return Verdict(
        recommended=chosen, knee=knee([profiles[i] for i in same_codec], same_codec), neighbours=neighbours,
        excluded=excluded, scores=scores,
    )  # fmt: skip


def doublings(value: float, least: float) -> float:
    """Return how often `least` is doubled to reach `value`; 0 for what costs nothing."""
    return math.log2(value / least) if value > 0 else 0.0


def knee(profiles: Sequence[Profile], numbers: Sequence[int]) -> int | None:
    """Return the one of `numbers` whose profile lies deepest below the line between the ends of the curve of total size
    over log2 of the chunk size; None when fewer than three sizes were asked for, or none lies below the line."""
    if len(profiles) < 3:
        return None
    xs = [math.log2(float(p["chunk_size"])) for p in profiles]
    ys = [float(p["total_size"]) for p in profiles]
    depths = [ys[0] + (ys[-1] - ys[0]) * (x - xs[0]) / (xs[-1] - xs[0]) - y for x, y in zip(xs, ys, strict=True)]
    deepest = max(range(len(depths)), key=lambda i: depths[i])
    return numbers[deepest] if depths[deepest] > 0 else None


def overlap(one: Profile, other: Profile) -> bool:
    """Return whether two profiles, of which one is an estimate at least, may take the same space in all."""
    low, high, other_low, other_high = (
        float(profile["total_size"]) - float(profile["stored_size"]) + float(profile[f"stored_size_{end}"])
        for profile in (one, other)
        for end in ("low", "high")
    )
    return (low < high or other_low < other_high) and low <= other_high and other_low <= high
