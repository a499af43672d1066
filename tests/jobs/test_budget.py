"""The search for a dial, on curves without robots."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.jobs import budget
from dyslctl.jobs.budget import (
    EVALUATIONS,
    Drop,
    MaxSuccessDrop,
    Outcome,
    TargetLayers,
    TargetMs,
    find_dial,
    find_layers,
    find_success,
)

RANGE = (-8.0, 4.0)


@dataclass
class Curve:
    """Layers fall from 12 to 3 as the dial rises; success with them. Equal dials give equal noise."""

    middle: float = 0.0
    slope: float = 1.0
    noise: float = 0.0
    error: float = 0.0
    success: Callable[[float], int] = lambda layers: 200
    ms: Callable[[float | None], float] = lambda dial: 2.0
    asked: list[float] = field(default_factory=list)

    def at(self, dial: float) -> Outcome:
        self.asked.append(dial)
        seed = abs(hash(dial)) % 2**32
        layers = 3 + 9 / (1 + math.exp(min(700.0, self.slope * (dial - self.middle))))
        layers += self.noise * np.random.default_rng(seed).uniform(-1, 1)
        return Outcome(200, self.success(layers), layers, self.success(layers) / 200, self.error)

    def full(self) -> Outcome:
        return Outcome(200, 200, 12.0, 1.0)

    def drop(self, dial: float) -> Drop:
        points = (200 - self.success(0.0 if dial == RANGE[1] else 12.0)) / 2
        return Drop(points, points - 2, points + 2)

    def ms_per_layer(self, dial: float | None) -> float:
        return self.ms(dial)


def test_a_smooth_curve_is_found_in_a_few_trials() -> None:
    found = find_dial(Curve(), RANGE, TargetLayers(6.0))
    assert found.met and abs(found.outcome.layers - 6.0) <= budget.LAYER_TOLERANCE
    assert len(found.tried) <= 6 and found.tried[found.dial] == found.outcome
    assert str(found.target) == "6 layers"


def test_a_target_in_the_middle_needs_one_trial_and_no_end() -> None:
    curve = Curve(middle=-2.0)
    assert find_layers(curve, RANGE, 7.5).met and curve.asked == [-2.0]


def test_the_search_stops_where_its_episodes_cannot_tell() -> None:
    """7.5 layers in the middle, 0.33 off on other episodes: 7.2 is met; 7.1 takes another trial, with any error."""
    assert Outcome(40, 40, 7.5, 1.0, 0.33).runs(7.2) and not Outcome(40, 40, 7.5, 1.0, 9.0).runs(7.1)
    assert not Outcome(40, 40, 7.5, 1.0, 0.2).runs(7.2)
    curve = Curve(middle=-2.0, error=0.33)
    found = find_layers(curve, RANGE, 7.2)
    assert (found.met, found.outcome.layers, len(curve.asked)) == (True, 7.5, 1)
    assert not Outcome(1, 1, 7.5, 1.0).runs(7.39) and Outcome(1, 1, 7.5, 1.0).runs(7.41)


def test_a_dial_is_short_enough_to_be_typed() -> None:
    dial = find_layers(Curve(middle=1 / 3), RANGE, 7.0).dial
    assert dial == round(dial, 4)


@pytest.mark.parametrize(("layers", "end"), [(12.0, -8.0), (2.0, 4.0), (20.0, -8.0)])
def test_targets_beyond_the_ends_give_the_nearer_end(layers: float, end: float) -> None:
    curve = Curve(middle=-2.0)
    found = find_layers(curve, RANGE, layers)
    assert found.dial == end and curve.asked == [-2.0, (end - 2.0) / 2, end]
    assert found.met == (layers == 12.0)


def test_a_step_is_not_hunted_for_ever() -> None:
    """A static pattern runs 5 layers or 8, nothing between."""
    curve = Curve()
    curve.at = lambda dial: (curve.asked.append(dial), Outcome(200, 100, 8.0 if dial < 1.2345 else 5.0, 0.5))[1]  # type: ignore[method-assign]
    found = find_layers(curve, RANGE, 6.0)
    assert (found.outcome.layers, found.met) == (5.0, False)
    assert len(curve.asked) == EVALUATIONS


def test_known_trials_cost_nothing() -> None:
    first = find_layers(Curve(), RANGE, 6.0)
    again = Curve()
    assert find_layers(again, RANGE, 6.0, first.tried).dial == first.dial and again.asked == []
    next_one = Curve()
    found = find_layers(next_one, RANGE, 5.0, first.tried)
    assert found.met and not set(next_one.asked) & set(first.tried)


@given(
    middle=st.floats(-9, 5),
    slope=st.floats(0.3, 50),
    noise=st.floats(0, 0.6),
    error=st.floats(0, 0.6),
    layers=st.floats(2, 13),
    evaluations=st.integers(1, 12),
)
def test_it_takes_the_best_of_its_trials_and_keeps_to_their_number(
    middle: float, slope: float, noise: float, error: float, layers: float, evaluations: int
) -> None:
    curve = Curve(middle, slope, noise, error)
    found = find_layers(curve, RANGE, layers, evaluations=evaluations)
    assert len(curve.asked) <= evaluations and len(set(curve.asked)) == len(curve.asked)
    assert all(RANGE[0] <= dial <= RANGE[1] for dial in curve.asked)
    off = abs(found.outcome.layers - layers)
    assert off == min(abs(outcome.layers - layers) for outcome in found.tried.values())
    assert found.met == (off <= max(budget.LAYER_TOLERANCE, min(error, layers / 20)))


@given(middle=st.floats(-6, 2), slope=st.floats(0.5, 4), layers=st.floats(3.6, 11))
def test_without_noise_a_reachable_target_is_met(middle: float, slope: float, layers: float) -> None:
    ends = [Curve(middle, slope).at(end).layers for end in RANGE]
    if ends[1] < layers < ends[0]:
        assert find_layers(Curve(middle, slope), RANGE, layers).met


def enough_above(limit: float) -> Callable[[float], int]:
    """All 200 solved down to ``limit`` layers, below it 20 fewer."""
    return lambda layers: 200 if layers >= limit else 180


def test_the_fewest_layers_within_a_drop() -> None:
    found = find_dial(Curve(success=enough_above(6.0)), RANGE, MaxSuccessDrop(1.0))
    assert found.met and found.outcome.successes == 200
    # The grid is 1.5 apart and halved three times; the curve falls by at most 2.25 layers a unit.
    assert 6.0 <= found.outcome.layers <= 6.0 + 2.25 * 1.5 / 8


def test_the_drop_is_in_points_of_the_same_episodes() -> None:
    """20 of 200 fewer are 10 points, and 10 points are allowed."""
    assert find_success(Curve(success=enough_above(6.0)), RANGE, 10.0).outcome.layers < 3.2
    assert find_success(Curve(success=enough_above(6.0)), RANGE, 9.9).outcome.layers >= 6.0


def test_the_drop_of_the_chosen_dial_is_reported_with_its_interval() -> None:
    """200 of 200 down to the last layer, where it is 198: 1 point lost, and 1 is allowed."""
    curve = Curve(success=lambda layers: 200 if layers > 3.2 else 198)
    found = find_success(curve, RANGE, 1.0)
    assert (found.dial, found.drop) == (RANGE[1], Drop(1.0, -1.0, 3.0))
    assert str(found.drop) == "1.0 points (95 % interval -1.0 to 3.0)"
    assert find_layers(curve, RANGE, 6.0).drop is None


def test_luck_beyond_a_loss_is_not_taken() -> None:
    lucky = Curve(success=lambda layers: 180 if 5 < layers < 7 else 200)
    assert find_success(lucky, RANGE, 1.0).outcome.layers >= 7


def test_a_method_that_always_loses_too_much_says_so() -> None:
    curve = Curve(success=lambda layers: 100)
    found = find_success(curve, RANGE, 1.0)
    assert not found.met and found.dial == RANGE[0] and len(curve.asked) == 1
    assert found.drop == Drop(50.0, 48.0, 52.0)


def test_a_method_that_never_loses_goes_to_the_end() -> None:
    curve = Curve()
    assert find_success(curve, RANGE, 0.0).dial == RANGE[1]
    assert len(curve.asked) == budget.GRID + 1


@given(limit=st.floats(3, 12), noise=st.floats(0, 0.5), points=st.floats(0, 9))
def test_what_is_chosen_has_enough(limit: float, noise: float, points: float) -> None:
    curve = Curve(success=enough_above(limit), noise=noise)
    found = find_success(curve, RANGE, points)
    assert len(curve.asked) <= budget.GRID + 1 + budget.HALVINGS
    assert found.met == (found.outcome.successes == 200)


def test_milliseconds_count_what_the_method_adds_to_a_layer() -> None:
    """A layer of the full model takes 2 ms, one of the method 2.5: 15 ms are 6 layers and not 7.5."""
    found = find_dial(Curve(ms=lambda dial: 2.0 if dial is None else 2.5), RANGE, TargetMs(15.0))
    assert found.met and found.ms == pytest.approx(15.0, rel=0.03)
    assert found.outcome.layers == pytest.approx(6.0, abs=0.2)


def test_milliseconds_out_of_reach_give_the_nearest() -> None:
    found = find_dial(Curve(), RANGE, TargetMs(1.0))
    assert not found.met and found.dial == RANGE[1] and str(found.target) == "1 ms"
