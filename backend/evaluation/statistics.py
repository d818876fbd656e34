"""Means with confidence intervals, of targets that are not independent: those of one subject stay together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over targets.

    Args:
        mean: None where there is no target.
        low: lower end of the 95 % confidence interval; None with fewer than two subjects.
        high: its upper end.
        targets: how many values there were.
        subjects: of how many subjects.
    """

    mean: float | None
    low: float | None
    high: float | None
    targets: int
    subjects: int


def bootstrap_mean(values: Sequence[float], subjects: Sequence[str], seed: int = 0) -> Estimate:
    """The mean of the values, and its interval by the percentile bootstrap over subjects.

    Subjects, not values, are drawn with replacement (the cluster bootstrap): two organs of one patient, or two
    scans, say less than organs of two patients. The same values and seed give the same interval.

    Args:
        values: one a target.
        subjects: whose target each is.
        seed: of the resampling.
    """
    if not values:
        return Estimate(None, None, None, 0, 0)
    names, owner = np.unique(np.asarray(subjects), return_inverse=True)
    mean, count = float(np.mean(values)), len(names)
    if count < 2:
        return Estimate(mean, None, None, len(values), count)
    sums = np.bincount(owner, weights=np.asarray(values, dtype=np.float64))
    sizes = np.bincount(owner)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    low, high = np.quantile((draws @ sums) / (draws @ sizes), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Estimate(mean, low, high, len(values), count)
