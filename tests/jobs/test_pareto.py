"""Pooled curves and matched comparisons, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.errors import ConfigError
from dyslctl.jobs.curves import Point, Setting
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.jobs.pareto import interpolate, pareto
from dyslctl.jobs.statistics import mcnemar, paired_difference, wilson


def point(
    method: str, label: str, seed: int | None, solved: list[int], layers: float, inferences: int = 10, dial: float = 0.0
) -> Point:
    """One episode for each of ``solved``; all of them run ``layers`` an inference."""
    records = [
        EpisodeRecord(
            method, "s", "test", index, "t", index, "done",
            score=score, success=bool(score), inferences=inferences, layers_run=round(layers * inferences),
            verifications=index % 2,
        )
        for index, score in enumerate(solved)
    ]  # fmt: skip
    return Point(seed, Setting(method, label, dial=None if method == "full" else layers + dial), records)


def test_pooled_means_by_hand() -> None:
    """Seeds 3 of 4 and 2 of 4: 5 of 8. Layers: (4 * 10 * 5 + 4 * 20 * 6) / (4 * 10 + 4 * 20) = 680 / 120."""
    points = [point("dysl", "5", 0, [1, 1, 1, 0], 5.0, 10), point("dysl", "5", 1, [1, 1, 0, 0], 6.0, 20)]
    (pooled,) = pareto(points, "dysl").pooled
    assert (pooled.method, pooled.label, pooled.seeds, pooled.episodes) == ("dysl", "5", 2, 4)
    assert pooled.success_rate == 5 / 8
    assert pooled.layers_per_inference == pytest.approx(680 / 120)
    assert pooled.layers_per_episode == pytest.approx(680 / 8)
    assert pooled.inferences_per_episode == 15
    assert pooled.verifications_per_episode == 0.5
    assert pooled.success_ci95[0] < 5 / 8 < pooled.success_ci95[1]
    assert pooled.layers_per_inference_ci95[0] == pytest.approx(5.0)  # both draws are the first seed
    assert pooled.layers_per_inference_ci95[1] == pytest.approx(6.0)


def test_equal_ends_have_the_interval_of_one_seed() -> None:
    """10 of 10 with both seeds: nothing to resample, Wilson of 10 of 10 and not of 20 of 20."""
    (pooled,) = pareto([point("dysl", "5", seed, [1] * 10, 5.0) for seed in (0, 1)], "dysl").pooled
    assert pooled.success_ci95 == pytest.approx((0.722467, 1.0), abs=1e-6)


def test_a_chain_has_a_mean_score_too() -> None:
    points = [point("dysl", "5", 0, [3, 0, 5, 4], 5.0), point("static", "5", 0, [2, 0, 4, 3], 5.0)]
    result = pareto(points, "dysl")
    assert [pooled.mean_score for pooled in result.pooled] == [3.0, 2.25]
    nearest = result.matched[0].nearest
    assert (nearest.difference, nearest.score_difference) == (0.0, 0.75)
    assert nearest.score_difference_ci95 == (0.25, 1.0)


def test_two_that_solve_everything_are_not_certainly_equal() -> None:
    """None of 10 differs, in either seed: Wilson ends at z^2 / (10 + z^2) = 0.277533."""
    points = [point(name, "5", seed, [1] * 10, 5.0) for name in ("dysl", "static") for seed in (0, 1)]
    nearest = pareto(points, "dysl").matched[0].nearest
    assert nearest.difference == 0
    assert nearest.difference_ci95 == pytest.approx((-0.277533, 0.277533), abs=1e-5)


def test_the_full_model_stands_in_every_seed() -> None:
    points = [point("full", "", None, [1, 1, 1, 0], 12.0)]
    points += [point("dysl", "5", seed, [1, 0, 1, 0], 5.0) for seed in (0, 1, 2)]
    result = pareto(points, "dysl")
    assert [(p.method, p.seeds, p.success_rate) for p in result.pooled] == [("full", 1, 0.75), ("dysl", 3, 0.5)]
    (against,) = result.matched
    assert (against.rival, against.interpolated, against.nearest.delta_layers) == ("full", None, -7.0)
    assert (against.nearest.wins, against.nearest.losses, against.nearest.ties) == (0, 1, 3)


def test_a_rival_is_read_off_its_curve_at_equal_layers() -> None:
    """Rival: 4 of 10 at 5 layers, 8 of 10 at 7; at 5.5 layers that is 5 of 10. dysl solves 9 of 10: +0.4."""
    points = [
        point("dysl", "5.5", 0, [1] * 9 + [0], 5.5),
        point("random", "5", 0, [1] * 4 + [0] * 6, 5.0),
        point("random", "7", 0, [1] * 8 + [0] * 2, 7.0),
    ]
    (against,) = pareto(points, "dysl").matched
    assert against.interpolated is not None
    assert against.interpolated.rival_success_rate == pytest.approx(0.5)
    assert against.interpolated.difference == pytest.approx(0.4)
    low, high = against.interpolated.difference_ci95
    assert 0.1 < low < 0.4 < high < 0.7
    assert against.nearest.rival_label == "5" and against.nearest.delta_layers == pytest.approx(0.5)


def test_beyond_a_rivals_curve_nothing_is_read_off() -> None:
    def at(layers: float) -> bool:
        points = [point("dysl", "x", 0, [1, 0], layers)]
        points += [point("random", str(x), 0, [1, 0], x) for x in (5.0, 6.0)]
        return pareto(points, "dysl").matched[0].interpolated is not None

    assert [at(layers) for layers in (4.8, 4.9, 5.5, 6.1, 6.2)] == [False, True, True, True, False]


def test_one_seed_has_the_test_and_the_intervals_of_counts() -> None:
    ours, theirs = [1, 1, 1, 1, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1, 0, 0]
    found = pareto([point("dysl", "5", 0, ours, 5.0), point("static", "5", 0, theirs, 5.1)], "dysl")
    assert [pooled.success_ci95 for pooled in found.pooled] == [wilson(6, 8), wilson(3, 8)]
    nearest = found.matched[0].nearest
    assert (nearest.wins, nearest.losses, nearest.ties) == (4, 1, 3)
    assert nearest.p_value == mcnemar(4, 1)
    assert (nearest.difference, nearest.difference_ci95) == (3 / 8, paired_difference(4, 1, 8))
    assert nearest.delta_layers == pytest.approx(-0.1)


def test_over_seeds_an_initial_state_counts_once() -> None:
    """State 0: 2 seeds against 0, won; state 1: 1 against 1, a tie; state 2: 0 against 1, lost."""
    points = [point("dysl", "5", seed, solved, 5.0) for seed, solved in enumerate([[1, 1, 0], [1, 0, 0]])]
    points += [point("static", "5", seed, solved, 5.0) for seed, solved in enumerate([[0, 0, 1], [0, 1, 0]])]
    nearest = pareto(points, "dysl").matched[0].nearest
    assert (nearest.wins, nearest.losses, nearest.ties) == (1, 1, 1)


def test_the_nearest_point_is_nearest_in_layers() -> None:
    points = [point("dysl", "6", 0, [1, 0], 6.0), point("random", "6", 0, [1, 1], 5.8)]
    points.append(point("random", "like dysl at 6", 0, [0, 0], 6.1))
    assert pareto(points, "dysl").matched[0].nearest.rival_label == "like dysl at 6"


def test_a_dial_at_its_end_gives_one_point() -> None:
    """Two budgets that ended at the same setting; the second is not shown again."""
    points = [point("dysl", label, seed, [1, 0], 5.0) for label in ("3", "4") for seed in (0, 1)]
    assert [pooled.label for pooled in pareto(points, "dysl").pooled] == ["3"]


def test_an_episode_that_crashed_anywhere_is_left_out_everywhere() -> None:
    whole, broken = point("dysl", "5", 0, [1, 1, 0], 5.0), point("static", "5", 0, [1, 1, 0], 5.0)
    crashed = EpisodeRecord("static", "s", "test", 0, "t", 0, "error", error="broken arm")
    broken = Point(0, broken.setting, [crashed, *broken.records[1:]])
    result = pareto([whole, broken], "dysl")
    assert [(pooled.episodes, pooled.success_rate) for pooled in result.pooled] == [(2, 0.5), (2, 0.5)]
    with pytest.raises(ConfigError, match="no initial state was played to its end"):
        pareto([whole, Point(0, broken.setting, [crashed])], "dysl")


def test_a_seed_without_its_point_is_an_error() -> None:
    points = [point("dysl", "5", 0, [1], 5.0), point("dysl", "5", 1, [1], 5.0), point("static", "5", 0, [1], 5.0)]
    with pytest.raises(ConfigError, match=r"'static' \(5\) for each of the seeds \[0, 1\]"):
        pareto(points, "dysl")


@given(st.data(), st.integers(2, 6))
def test_interpolation_is_numpys(data: st.DataObject, count: int) -> None:
    coordinates = st.lists(st.integers(0, 40), min_size=count, max_size=count, unique=True)
    x = np.array(data.draw(coordinates), float)
    y = np.array(data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count)), float)
    at = data.draw(st.floats(-5, 45))
    order = np.argsort(x)
    expected = np.interp(at, x[order], y[order])
    assert interpolate(np.array([at]), x[None], y[None])[0] == pytest.approx(expected)


def test_interpolation_between_points_of_equal_layers_is_finite() -> None:
    assert interpolate(np.array([5.0]), np.array([[5.0, 5.0]]), np.array([[0.2, 0.4]]))[0] in (0.2, 0.4)
