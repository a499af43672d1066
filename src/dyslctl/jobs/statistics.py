"""Statistics of paired evaluations: intervals and tests, always from counts or values of known ``n``.

Sources: E. B. Wilson 1927 (score interval), Q. McNemar 1947 in its exact binomial form, B. Efron 1979 (bootstrap).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 10_000


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a success rate; ``(0, 1)``, knowing nothing, when there were no trials.

    Raises:
        ValueError: If ``successes`` is not in ``0..trials``.
    """
    if trials == 0 == successes:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p-value that wins and losses of a paired comparison are equally likely.

    Ties say nothing about the difference. Without any win or loss there is no evidence: 1.
    """
    if wins + losses == 0:
        return 1.0
    return float(binomtest(wins, wins + losses, 0.5).pvalue)


def bootstrap_mean(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile-bootstrap interval of a mean, e.g. of the average successful length of chains.

    Args:
        values: ``n >= 1`` independent values.
        confidence: Share of resampled means inside.
        seed: Of the resampling: equal inputs give equal intervals.

    Raises:
        ValueError: If there are no values.
    """
    if len(values) == 0:
        raise ValueError("a mean of no values has no interval")
    sample = np.asarray(values, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(sample), (RESAMPLES, len(sample)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(sample[picks].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of ``a - b`` over pairs, with its percentile-bootstrap interval: ``(mean, low, high)``.

    Raises:
        ValueError: If ``a`` and ``b`` differ in length or are empty.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs need equally many values, found {len(a)} and {len(b)}")
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    low, high = bootstrap_mean(differences.tolist(), confidence, seed)
    return float(differences.mean()), low, high
