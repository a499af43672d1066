from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.dysl.partition import (
    LayerPartition,
    Segment,
    StaticBudget,
    by_path_cost,
    by_similarity,
    choose_static,
    default_static_count,
    harmonic_law,
    jump_cost,
    static_count,
    tail,
    uniform,
)
from dyslctl.dysl.similarity import SimilarityResult
from dyslctl.errors import ConfigError


def test_segments_lie_between_static_layers_and_before_the_head() -> None:
    partition = LayerPartition(10, (0, 1, 4, 7))
    assert partition.segments == (Segment(2, 4), Segment(5, 7), Segment(8, 10))
    assert partition.dynamic_layers == (2, 3, 5, 6, 8, 9)
    assert [partition.next_static(i) for i in (2, 3, 5, 8, 9)] == [4, 4, 7, 10, 10]


def test_a_leading_segment_is_allowed_when_layer_0_is_dynamic() -> None:
    assert LayerPartition(4, (2,)).segments == (Segment(0, 2), Segment(3, 4))
    assert LayerPartition(3, ()).segments == (Segment(0, 3),)


@pytest.mark.parametrize("static", [(3, 1), (1, 1), (-1,), (8,)])
def test_impossible_static_layers_are_refused(static: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"ascending ids in 0\.\.7"):
        LayerPartition(8, static)


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_every_layer_is_static_or_in_exactly_one_segment(case: tuple[int, set[int]]) -> None:
    num_layers, static = case
    partition = LayerPartition(num_layers, tuple(sorted(static)))
    covered = [layer for segment in partition.segments for layer in segment.layers]
    assert sorted([*covered, *static]) == list(range(num_layers))
    assert all(len(segment) > 0 for segment in partition.segments)
    landings = {layer: segment.stop for segment in partition.segments for layer in segment.layers}
    assert {layer: partition.next_static(layer) for layer in covered} == landings


def test_counts_round_half_up() -> None:
    assert [static_count(24, r) for r in (0.10, 0.15, 0.20, 0.25, 0.30)] == [2, 4, 5, 6, 7]
    assert static_count(32, 0.20) == 6
    assert static_count(10, 0.25) == 3


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.2])
def test_a_ratio_outside_the_open_interval_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        static_count(12, ratio)


def test_forced_layers_count_and_dead_layers_are_never_chosen() -> None:
    budget = StaticBudget(8, count=3, last_live=6)
    assert budget.forced == (0, 6)
    importance = [0.1, 0.2, 0.3, 0.9, 0.1, 0.1, 0.1, 5.0]
    assert by_similarity(importance, budget).static_layers == (0, 3, 6)


@pytest.mark.parametrize(("count", "hint"), [(1, "larger"), (9, "smaller")])
def test_a_budget_that_cannot_hold_is_refused(count: int, hint: str) -> None:
    with pytest.raises(ConfigError, match="static layers of 8") as caught:
        StaticBudget(8, count, last_live=7)
    assert caught.value.hint is not None and hint in caught.value.hint


def test_importance_decides_the_rest() -> None:
    importance = [0.0, 0.1, 0.7, 0.2, 0.6, 0.1, 0.1, 0.0]
    assert by_similarity(importance, StaticBudget(8, count=4, last_live=7)).static_layers == (0, 2, 4, 7)


def test_ties_fall_to_the_tie_breaker_and_then_to_the_lower_layer() -> None:
    importance = [0.0, 0.50, 0.49, 0.48, 0.0]
    budget = StaticBudget(5, count=3, last_live=4)
    error = [0.0, 0.015, 0.0, 0.0, 0.0]
    update = [0.0, 0.1, 0.3, 0.9, 0.0]
    assert by_similarity(importance, budget).static_layers == (0, 1, 4)
    assert by_similarity(importance, budget, standard_error=error).static_layers == (0, 1, 4)
    chosen = by_similarity(importance, budget, standard_error=error, tie_breakers=[update])
    assert chosen.static_layers == (0, 2, 4), "layer 3 is further away than one standard error"


def test_the_harmonic_law_of_four_layers() -> None:
    assert harmonic_law(4) == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25])


def brute_force(cosines: np.ndarray, budget: StaticBudget) -> float:
    """The least cost over every admissible static set."""
    sets = itertools.combinations(range(budget.last_live + 1), budget.count)
    partitions = [LayerPartition(budget.num_layers, chosen) for chosen in sets if set(budget.forced) <= set(chosen)]
    return min(sum(jump_cost(cosines, s.start, s.stop) for s in partition.segments) for partition in partitions)


@given(seed=st.integers(0, 10_000), num_layers=st.integers(1, 8), data=st.data())
def test_path_cost_is_the_optimum(seed: int, num_layers: int, data: st.DataObject) -> None:
    last_live = data.draw(st.integers(0, num_layers - 1))
    count = data.draw(st.integers(min(2, last_live + 1), last_live + 1))
    cosines = np.random.default_rng(seed).uniform(-1, 1, (num_layers + 1, num_layers + 1))
    budget = StaticBudget(num_layers, count, last_live)
    partition = by_path_cost(cosines, budget)
    cost = sum(jump_cost(cosines, s.start, s.stop) for s in partition.segments)
    assert len(partition.static_layers) == count and set(budget.forced) <= set(partition.static_layers)
    assert cost == pytest.approx(brute_force(cosines, budget))


def test_uniform_spreads_evenly_over_the_live_layers() -> None:
    assert uniform(StaticBudget(13, count=4, last_live=12)).static_layers == (0, 4, 8, 12)
    assert uniform(StaticBudget(13, count=3, last_live=10)).static_layers == (0, 5, 10)
    assert uniform(StaticBudget(4, count=1, last_live=0)).static_layers == (0,)


def test_choose_static_dispatches_and_names_the_criteria() -> None:
    cosines = np.ones((6, 6))
    cosines[2, 3] = 0.5
    zeros = np.zeros(5)
    result = SimilarityResult(cosines, {}, zeros, zeros, zeros, samples=1, episodes=1)
    budget = StaticBudget(5, count=3, last_live=4)
    assert choose_static("similarity", budget, result).static_layers == (0, 2, 4)
    assert choose_static("uniform", budget, result).static_layers == (0, 2, 4)
    assert choose_static("path-cost", budget, result).num_layers == 5
    sensitivity = np.array([0.0, 3.0, 0.0, 0.0, 0.0])
    assert choose_static("sensitivity", budget, result, sensitivity).static_layers == (0, 1, 4)
    with pytest.raises(ConfigError, match="path-cost"):
        choose_static("magic", budget, result)  # type: ignore[arg-type]


@pytest.mark.parametrize(("layers", "count"), [(2, 2), (8, 4), (12, 4), (22, 4), (24, 5), (32, 6)])
def test_default_count_leaves_the_profile_something_to_choose(layers: int, count: int) -> None:
    assert default_static_count(layers) == count


@pytest.mark.parametrize(
    ("static", "prefix"), [((0, 1, 2, 11), (0, 1, 2)), ((0, 3, 7, 11), (0,)), (tuple(range(12)), tuple(range(12)))]
)
def test_the_tail_begins_behind_the_leading_run(static: tuple[int, ...], prefix: tuple[int, ...]) -> None:
    assert tail(LayerPartition(12, static)) == LayerPartition(12, prefix)


@given(st.integers(1, 24), st.data())
def test_the_tail_is_one_segment_up_to_the_head(num_layers: int, data: st.DataObject) -> None:
    static = {0, *data.draw(st.sets(st.integers(0, num_layers - 1)))}
    partition = LayerPartition(num_layers, tuple(sorted(static)))
    found = tail(partition)
    first = len(found.static_layers)
    assert found.segments == (() if first == num_layers else (Segment(first, num_layers),))
    assert set(found.static_layers) <= static and first not in static
    assert tail(found) == found


def test_a_tail_needs_a_first_layer() -> None:
    with pytest.raises(ConfigError, match=r"layer 0 to be static, found static layers \[1, 2\]"):
        tail(LayerPartition(4, (1, 2)))
