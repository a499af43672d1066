from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import multinomial

from dyslctl.jobs import statistics
from dyslctl.jobs.statistics import (
    bootstrap_mean,
    crossed_bootstrap,
    mcnemar,
    paired_bootstrap,
    paired_difference,
    percentile_interval,
    ratio_error,
    wilson,
)


def test_wilson_by_hand() -> None:
    """z = 1.95996, z^2 = 3.84146. 9 of 10: centre (9 + z^2/2) / (10 + z^2) = 10.92073 / 13.84146 = 0.78899, half-width
    z / 13.84146 * sqrt(10 * 0.9 * 0.1 + z^2/4) = 0.141600 * sqrt(1.860365) = 0.193137."""
    assert wilson(9, 10) == pytest.approx((0.59585, 0.98212), abs=1e-4)


def test_wilson_at_the_ends() -> None:
    """10 of 10: low = n / (n + z^2) = 10 / 13.84146."""
    assert wilson(10, 10) == pytest.approx((0.722467, 1.0), abs=1e-6)
    assert wilson(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_refuses_more_successes_than_trials() -> None:
    with pytest.raises(ValueError, match="k"):
        wilson(3, 2)


@given(trials=st.integers(1, 300), data=st.data())
def test_wilson_holds_the_rate_and_shrinks(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = wilson(successes, trials)
    wider_low, wider_high = wilson(successes, trials, confidence=0.99)
    assert wider_low <= low <= successes / trials + 1e-12 and successes / trials - 1e-12 <= high <= wider_high


def test_mcnemar_by_hand() -> None:
    """1 win, 7 losses: 2 * (C(8,0) + C(8,1)) / 2^8 = 18 / 256. 0 and 5: 2 / 2^5."""
    assert mcnemar(1, 7) == pytest.approx(18 / 256)
    assert mcnemar(7, 1) == pytest.approx(18 / 256)
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(4, 4) == 1.0
    assert mcnemar(0, 0) == 1.0


def test_paired_difference_by_hand() -> None:
    """3 wins, 7 losses of 98: p_w = 0.04, p_l = 0.08, so -0.04 +- 1.95996 * sqrt((0.12 - 0.0016) / 100) = 0.067441."""
    assert paired_difference(3, 7, 98) == pytest.approx((-0.107441, 0.027441), abs=1e-6)


def test_paired_difference_knows_that_no_difference_was_seen_on_few_episodes() -> None:
    """0 and 0 of 198: 0 +- 1.95996 * sqrt((2 / 200) / 200) = 0.013859, and a bootstrap would say exactly 0."""
    assert paired_difference(0, 0, 198) == pytest.approx((-0.013859, 0.013859), abs=1e-6)


@given(pairs=st.integers(1, 300), data=st.data())
def test_paired_difference_holds_the_difference_and_turns_with_its_sign(pairs: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, pairs))
    losses = data.draw(st.integers(0, pairs - wins))
    low, high = paired_difference(wins, losses, pairs)
    assert -1 <= low <= (wins - losses) / pairs <= high <= 1
    assert paired_difference(losses, wins, pairs) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("win", "loss"), [(0.0, 0.01), (0.01, 0.02), (0.03, 0.1), (0.2, 0.2)])
def test_paired_difference_covers_the_truth_as_often_as_it_says(win: float, loss: float) -> None:
    """Over every outcome of 60 episodes, weighted by its probability."""
    pairs, covered = 60, 0.0
    for wins in range(pairs + 1):
        for losses in range(pairs + 1 - wins):
            low, high = paired_difference(wins, losses, pairs)
            if low <= win - loss <= high:
                counts = [wins, losses, pairs - wins - losses]
                covered += float(multinomial.pmf(counts, pairs, [win, loss, 1 - win - loss]))
    assert 0.94 < covered <= 1


@pytest.mark.parametrize(("wins", "losses"), [(-1, 0), (2, 2)])
def test_paired_difference_refuses_impossible_counts(wins: int, losses: int) -> None:
    with pytest.raises(ValueError, match="do not fit 3 pairs"):
        paired_difference(wins, losses, 3)


def test_bootstrap_mean_is_normal_theory_for_many_values() -> None:
    """400 alternating 0 and 1: standard error 0.5 / 20 = 0.025, so +-1.96 * 0.025 = 0.049."""
    low, high = bootstrap_mean([0.0, 1.0] * 200, (0, 1))
    assert (low, high) == pytest.approx((0.451, 0.549), abs=0.004)


def test_bootstrap_mean_is_deterministic() -> None:
    values = np.random.default_rng(1).normal(size=30).tolist()
    assert bootstrap_mean(values, (-9, 9)) == bootstrap_mean(values, (-9, 9))
    assert bootstrap_mean(values, (-9, 9)) != bootstrap_mean(values, (-9, 9), seed=1)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean([], (0, 1))


def test_equal_values_are_no_certainty() -> None:
    """None of 3: Wilson ends at z^2 / (3 + z^2) = 0.561497, the share of other values that may have gone unseen."""
    assert bootstrap_mean([4.0, 4.0, 4.0], (0, 5)) == pytest.approx((4 - 0.561497 * 4, 4 + 0.561497), abs=1e-6)
    assert bootstrap_mean([1.0] * 3, (0, 1)) == pytest.approx(wilson(3, 3))


def test_ratio_error_by_hand() -> None:
    """12 layers in 2 inferences and 6 in 2: 4.5 each; off by 3 and -3: sqrt(2 / 1 * 18) / 4 = 1.5."""
    assert ratio_error([12, 6], [2, 2]) == pytest.approx(1.5)
    assert ratio_error([6, 12], [2, 4]) == 0.0
    assert ratio_error([6], [2]) is None and ratio_error([0, 0], [0, 0]) is None


def test_ratio_error_is_the_spread_of_the_ratio() -> None:
    """Long episodes run more layers an inference: the error is that of the ratio of totals."""
    generator = np.random.default_rng(0)
    counts = generator.integers(5, 50, (4000, 40))
    totals = counts * (4 + counts / 20 + generator.normal(size=counts.shape))
    ratios = totals.sum(1) / counts.sum(1)
    said = np.mean([ratio_error(x, c) for x, c in zip(totals, counts, strict=True)])
    assert said == pytest.approx(ratios.std(), rel=0.05)


def test_paired_bootstrap_sees_through_the_spread_that_pairs_share() -> None:
    """Chains of 0..4 solved subtasks, the second method one more but once: all that spreads is that one."""
    base = [0.0, 1.0, 2.0, 3.0, 4.0] * 4
    better = [value + 1 for value in base[:-1]] + base[-1:]
    assert paired_bootstrap(better, base, 5) == (0.95, 0.85, 1.0)
    with pytest.raises(ValueError, match="found 2 and 1"):
        paired_bootstrap([1.0, 2.0], [1.0], 5)


def test_equal_differences_are_no_certainty() -> None:
    """20 chains of 5, always one more: q = z^2 / (20 + z^2) = 0.161125, of differences between -5 and 5."""
    base = [0.0, 1.0, 2.0, 3.0, 4.0] * 4
    found = paired_bootstrap([value + 1 for value in base], base, 5)
    assert found == pytest.approx((1.0, 1 - 6 * 0.161125, 1 + 4 * 0.161125), abs=1e-5)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_swapping_the_pair_changes_the_sign(pairs: list[tuple[int, int]]) -> None:
    a, b = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
    mean, low, high = paired_bootstrap(a, b, 5)
    assert paired_bootstrap(b, a, 5) == pytest.approx((-mean, -high, -low))
    assert low <= mean + 1e-9 and mean - 1e-9 <= high


def test_resampling_takes_no_more_memory_for_more_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks or at once: the same resamples."""
    values = np.random.default_rng(2).normal(size=(3, 7, 2))
    at_once = crossed_bootstrap(values)
    monkeypatch.setattr(statistics, "BLOCK", 7 * 300)
    np.testing.assert_array_equal(crossed_bootstrap(values), at_once)


def test_crossed_resamples_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds drawn (2, 0) times, states (1, 0, 2) times, of 2 x 3: (2 * 1 * 1 + 2 * 2 * 3) / 6 = 14 / 6."""
    draws = iter([np.array([[1.0, 0.0, 2.0]]), np.array([[2.0, 0.0]])])
    monkeypatch.setattr(statistics, "RESAMPLES", 1)
    monkeypatch.setattr(statistics, "_draws", lambda generator, size, count: next(draws))
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[:, :, None]
    assert crossed_bootstrap(values).tolist() == [[pytest.approx(14 / 6)]]


def test_one_row_is_the_bootstrap_of_scipy() -> None:
    values = np.random.default_rng(3).normal(size=200)
    theirs = scipy_bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=0).confidence_interval
    ours = percentile_interval(crossed_bootstrap(values[None, :, None])[:, 0])
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_rows_and_columns_add_their_variances() -> None:
    """Values r_s + c_e: the variance of the resampled mean is var(r) / S + var(c) / E, exactly for additive effects."""
    generator = np.random.default_rng(4)
    rows, columns = generator.normal(size=5), generator.normal(size=80)
    drawn = crossed_bootstrap((rows[:, None] + columns[None, :])[:, :, None])[:, 0]
    assert drawn.var() == pytest.approx(rows.var() / 5 + columns.var() / 80, rel=0.05)


def test_quantities_keep_their_pairing() -> None:
    """The second quantity is always 0.5 above the first, in every resample."""
    first = np.random.default_rng(5).normal(size=(3, 40))
    drawn = crossed_bootstrap(np.stack([first, first + 0.5], 2))
    np.testing.assert_allclose(drawn[:, 1] - drawn[:, 0], 0.5)
