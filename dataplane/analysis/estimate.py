"""Estimates: a value and the interval in which it lies with 95 % confidence."""

from __future__ import annotations

import math

from dataplane.analysis.arrays import np
from dataplane.dataclass import dataclass
from dataplane.hints import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy.typing as npt

Z95 = 1.959963984540054
"""Of the normal distribution: 95 % lie within so many standard deviations."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval; all three are equal when it is exact."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Estimate:
        """Return what is known without doubt."""
        return cls(value, value, value)

    @property
    def is_exact(self) -> bool:
        """Whether there is no doubt."""
        return self.low == self.high


def student95(freedom: int) -> float:
    """Return the two-sided 95 % quantile of Student's t; exact below 5 degrees of freedom, within 1 % above."""
    if freedom < 1:
        return math.inf
    if freedom < 5:
        return (12.706, 4.303, 3.182, 2.776)[freedom - 1]
    z = Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def estimate_sum(sample: npt.NDArray[np.int64], population: Estimate, least: float, most: float) -> Estimate:
    """Return the sum over a population, of which `sample` was drawn at random without replacement.

    Each member is between `least` and `most`. The size of the population may itself be an estimate; the variances of
    the mean and of the size add up (both relative), with Student's t for the mean.
    """
    size = population.value
    if size <= 0:
        return Estimate.exact(0)
    count = len(sample)
    if count >= size and population.is_exact:
        return Estimate.exact(float(sample.sum()))
    if count == 0:
        return Estimate(size * most, size * least, size * most)
    mean = float(sample.mean())
    if count == 1:
        return Estimate(size * mean, population.low * least, population.high * most)
    share_left = max(0.0, 1 - count / size)
    error = student95(count - 1) * float(sample.std(ddof=1)) * math.sqrt(share_left / count)
    size_error = (population.high - population.low) / 2
    half = math.hypot(error * size, size_error * mean)
    return Estimate(
        size * mean, max(population.low * least, size * mean - half), min(population.high * most, size * mean + half)
    )


def estimate_ratio(
    sample: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], population: Estimate, total: Estimate
) -> Estimate:
    """Return the sum over a population of whose members a random sample was drawn, when their `sizes` are known.

    `total` is the sum of the sizes of all members, to which the sum is about proportional; no member is more than its
    size. The interval is that of a ratio estimate, whose small bias is left out.
    """
    count, size = len(sample), float(sizes.sum())
    if population.value <= 0 or total.value <= 0:
        return Estimate.exact(0)
    if count >= population.value and population.is_exact:
        return Estimate.exact(float(sample.sum()))
    if count < 2 or not size:
        return Estimate(total.value, population.low, total.high)
    ratio = float(sample.sum()) / size
    spread = float(np.sqrt(((sample - ratio * sizes) ** 2).sum() / (count - 1)))
    share_left = max(0.0, 1 - count / population.value)
    error = student95(count - 1) * spread * math.sqrt(share_left / count) * population.value
    half = math.hypot(error, ratio * (total.high - total.low) / 2)
    value = ratio * total.value
    return Estimate(value, max(population.low, value - half), min(total.high, value + half))


def estimate_count(kept: int, rate: int) -> Estimate:
    """Return how many there are when each was kept independently with a chance of 1 / `rate`, and `kept` were."""
    if rate == 1:
        return Estimate.exact(kept)
    half = Z95 * math.sqrt(max(kept, 1) * (1 - 1 / rate)) * rate
    return Estimate(kept * rate, max(float(kept), kept * rate - half), kept * rate + half)
