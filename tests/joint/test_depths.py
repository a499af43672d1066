from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.dysl.partition import LayerPartition
from dyslctl.errors import ConfigError
from dyslctl.joint.depths import owed, snapped
from dyslctl.pruning.specprune import Depths


def test_by_hand_on_the_published_depth() -> None:
    """Pruned after 9, 14, 19, 24, global 14 and 31; static as a profile of 32 layers may find them."""
    found = snapped(Depths.of(32), [0, 1, 6, 13, 16, 24, 31])
    assert found == Depths(local=(0, 1), global_=(13, 31), pruned=(13, 16, 24, 24), updated=(6,))


def test_where_nothing_static_follows_a_pruning_stays() -> None:
    """Planned exits: the first four of twelve layers always run. Pruned after 3, 5, 7."""
    assert snapped(Depths.of(12), range(4)) == Depths((0, 1), (3,), (3, 5, 7), (2,))


def test_where_passes_are_contiguous_a_global_layer_counts_if_it_runs() -> None:
    """5 and 11 of twelve; the last static layer stands in for passes that leave before."""
    assert snapped(Depths.of(12), range(4), contiguous=True) == Depths((0, 1), (3, 5, 11), (3, 5, 7), (2,), (3,))
    assert snapped(Depths.of(12), range(6), contiguous=True).stand_ins == ()
    assert snapped(Depths.of(12), range(12), contiguous=True) == Depths.of(12)


def test_where_importance_is_never_learnt_nothing_goes_by_it() -> None:
    assert snapped(Depths.of(12), [0, 1]) == Depths((0, 1), (1,), (), ())
    assert snapped(Depths.of(12), [0]) == Depths((0,), (0,), (), ())
    assert snapped(Depths.of(12), [0, 1, 9]) == Depths((0, 1), (1, 9), (), ()), "9 would learn only for later ones"


def test_no_static_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a layer that always runs"):
        snapped(Depths.of(12), [])


@given(st.integers(1, 64))
def test_where_every_layer_is_static_nothing_moves(num_layers: int) -> None:
    depths = Depths.of(num_layers)
    assert snapped(depths, range(num_layers)) == depths


layouts = st.integers(2, 40).flatmap(
    lambda layers: st.tuples(st.just(layers), st.sets(st.integers(1, layers - 1)).map(lambda s: sorted({0, *s})))
)


@given(layouts)
def test_events_are_only_moved_later_and_attention_is_static(layout: tuple[int, list[int]]) -> None:
    num_layers, static = layout
    depths = Depths.of(num_layers)
    found = snapped(depths, static)
    assert {*found.local, *found.global_, *found.updated} <= set(static)
    assert len(found.pruned) <= len(depths.pruned)
    for after in found.pruned:
        assert any(found.local[-1] < layer < after for layer in found.updated), "nothing goes before it is known"
        assert after in static or after in depths.pruned
    for moved, wanted in zip(reversed(found.pruned), reversed(depths.pruned), strict=False):
        assert moved >= wanted
    assert not set(found.updated) & set(found.pruned)


@given(layouts, st.data())
def test_what_is_pruned_at_a_static_layer_does_not_depend_on_the_skips(
    layout: tuple[int, list[int]], data: st.DataObject
) -> None:
    """Whether a jump goes to the next static layer or to the next layer: the same number has gone before each."""
    num_layers, static = layout
    partition, pruned = LayerPartition(num_layers, tuple(static)), snapped(Depths.of(num_layers), static).pruned
    layer, expected, done = 0, 0, 0
    while layer < num_layers:
        if layer in static or not data.draw(st.booleans()):
            done += pruned.count(layer)
            layer += 1
        else:
            landing = partition.landing(layer, data.draw(st.sampled_from(["segment", "layer"])))
            done += owed(pruned, layer, landing)
            layer = landing
        expected = sum(after < layer for after in pruned)
        assert done == expected


@given(st.lists(st.integers(0, 31), max_size=6), st.sets(st.integers(0, 32), min_size=2))
def test_debts_of_consecutive_jumps_add_up(pruned: list[int], stops: set[int]) -> None:
    places = sorted(stops)
    assert sum(owed(pruned, *hop) for hop in pairwise(places)) == owed(pruned, places[0], places[-1])
