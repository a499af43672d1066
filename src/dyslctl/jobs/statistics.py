"""Statistics of paired evaluations: intervals and tests, always from counts or values of known ``n``.

Sources: E. B. Wilson 1927 (score interval), Q. McNemar 1947 in its exact binomial form, B. Efron 1979 (bootstrap),
A. B. Owen 2007 (pigeonhole bootstrap of crossed factors), D. G. Bonett and R. M. Price 2012 (paired proportions),
W. G. Cochran 1977 (ratio of two totals).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import binomtest, norm

RESAMPLES = 10_000
BLOCK = 2**21
"""Values drawn at a time: resampling a million episodes needs no more memory than resampling a thousand."""


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


def paired_difference(wins: int, losses: int, pairs: int, confidence: float = 0.95) -> tuple[float, float]:
    """Adjusted Wald interval of the difference of two success rates on the same episodes.

        p_w = (wins + 1) / (n + 2)      p_l = (losses + 1) / (n + 2)
        p_w - p_l  +-  z sqrt((p_w + p_l - (p_w - p_l)^2) / (n + 2))

    Unlike a bootstrap it has a width where nothing was won or lost.

    Args:
        wins: Episodes only the first solved.
        losses: Episodes only the second solved.
        pairs: ``n``, all episodes.
        confidence: Of the interval.

    Raises:
        ValueError: If there are more wins and losses than pairs.
    """
    if min(wins, losses) < 0 or wins + losses > pairs:
        raise ValueError(f"{wins} wins and {losses} losses do not fit {pairs} pairs")
    won, lost = (wins + 1) / (pairs + 2), (losses + 1) / (pairs + 2)
    half = float(norm.ppf((1 + confidence) / 2)) * math.sqrt((won + lost - (won - lost) ** 2) / (pairs + 2))
    return max(-1.0, won - lost - half), min(1.0, won - lost + half)


def bootstrap_mean(
    values: Sequence[float], bounds: tuple[float, float], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile-bootstrap interval of a mean, e.g. of the average successful length of chains.

    Args:
        values: ``n >= 1`` independent values. Where all are equal, see :func:`without_spread`.
        bounds: The least and the largest that a value may be.
        confidence: Share of resampled means inside.
        seed: Of the resampling: equal inputs give equal intervals.

    Raises:
        ValueError: If there are no values.
    """
    if len(values) == 0:
        raise ValueError("a mean of no values has no interval")
    if min(values) == max(values):
        return without_spread(values[0], len(values), bounds, confidence)
    column = np.asarray(values, np.float64)[None, :, None]
    return percentile_interval(crossed_bootstrap(column, seed)[:, 0], confidence)


def without_spread(
    value: float, count: int, bounds: tuple[float, float], confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of a mean of ``count`` values that are all ``value``, which a bootstrap would be certain of.

    Of another value there may be a share that was not seen, at most ``q``, the end of the Wilson interval of none:

        value - q (value - low)  ..  value + q (high - value)
    """
    unseen, (low, high) = wilson(0, count, confidence)[1], bounds
    return value - unseen * (value - low), value + unseen * (high - value)


def ratio_error(totals: Sequence[float], counts: Sequence[float]) -> float | None:
    """Standard error of a ratio of totals, e.g. of the layers an inference where episodes are what is drawn.

        r = sum x / sum c      se^2 = n / (n - 1)  sum (x_i - r c_i)^2 / (sum c)^2

    Args:
        totals: ``x``, of ``n`` independent draws.
        counts: ``c``, of the same.

    Returns:
        ``None`` if there are fewer than two draws, or nothing was counted.
    """
    x, c = np.asarray(totals, np.float64), np.asarray(counts, np.float64)
    if len(x) < 2 or not c.sum():
        return None
    rest = x - x.sum() / c.sum() * c
    return float(np.sqrt(len(x) / (len(x) - 1) * (rest @ rest)) / c.sum())


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], largest: float, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of ``a - b`` over pairs, with its percentile-bootstrap interval: ``(mean, low, high)``.

    Values are from 0 to ``largest``; where all differences are equal, see :func:`without_spread`.

    Raises:
        ValueError: If ``a`` and ``b`` differ in length or are empty.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs need equally many values, found {len(a)} and {len(b)}")
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    low, high = bootstrap_mean(differences.tolist(), (-largest, largest), confidence, seed)
    return float(differences.mean()), low, high


def crossed_bootstrap(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Resampled means over two crossed factors, e.g. training seeds and initial states (the pigeonhole bootstrap).

    mean_r = sum_s sum_e  a_rs b_re values[s, e]  /  (S E),   a_r, b_r: how often resample r drew each row and column

    Rows and columns are drawn independently, with replacement. So what all seeds make of one initial state is drawn or
    left out together, and so are all quantities: functions of several means keep their pairing. With one row this is
    the ordinary bootstrap over columns. With few rows it can only tell that they differ, not how much others would.

    Args:
        values: ``[S, E, Q]``: rows, columns, quantities.
        seed: Of the resampling: equal inputs give equal resamples.

    Returns:
        ``[RESAMPLES, Q]`` float64.
    """
    rows, columns, quantities = values.shape
    by_column = np.asarray(values, np.float64).transpose(1, 0, 2).reshape(columns, rows * quantities)
    draw_columns, draw_rows = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    means = []
    for size in _blocks(columns):
        sums = _draws(draw_columns, size, columns) @ by_column
        drawn = _draws(draw_rows, size, rows)
        means.append(np.einsum("rs,rsq->rq", drawn, sums.reshape(size, rows, quantities)) / (rows * columns))
    return np.concatenate(means)


def percentile_interval(resamples: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The middle ``confidence`` of resampled values ``[RESAMPLES]``."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resamples, [tail, 1 - tail])
    return float(low), float(high)


def _blocks(columns: int) -> Iterator[int]:
    """Sizes that add up to all resamples."""
    size = max(1, BLOCK // columns)
    for first in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - first)


def _draws(generator: np.random.Generator, size: int, count: int) -> np.ndarray:
    """``[size, count]`` float64: how often each of ``count`` was drawn in each of ``size`` resamples."""
    picks = generator.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
    return np.bincount(picks.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)
