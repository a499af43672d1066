from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.baselines.random_skip import (
    RandomExits,
    RandomSkipSchedule,
    Reach,
    exit_probability,
    expected_exit,
    expected_layers,
    skip_probability,
)
from dyslctl.dysl.exit_schedule import ExitLadder
from dyslctl.dysl.exits import ExitModules, ExitSizes
from dyslctl.dysl.partition import LayerPartition
from dyslctl.engine import forward
from dyslctl.errors import ConfigError
from dyslctl.types import LayerState

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

PARTITION = LayerPartition(8, (0, 3, 7))


def test_expected_layers_by_hand() -> None:
    """Segments of 2 and 3 at p = 1/2: 3 + (1/2 + 1/4) + (1/2 + 1/4 + 1/8) = 4.625."""
    assert expected_layers(PARTITION, 0.5) == 4.625
    assert (expected_layers(PARTITION, 0.0), expected_layers(PARTITION, 1.0)) == (8, 3)


def test_expected_layers_one_by_one_by_hand() -> None:
    """Five dynamic layers at p = 1/4: 3 + 5 * 3/4 = 6.75."""
    assert expected_layers(PARTITION, 0.25, "layer") == 6.75
    assert (expected_layers(PARTITION, 0.0, "layer"), expected_layers(PARTITION, 1.0, "layer")) == (8, 3)
    assert skip_probability(PARTITION, 6.75, "layer") == pytest.approx(0.25)


@given(st.sets(st.integers(0, 23), min_size=1, max_size=20), st.floats(0, 1), st.sampled_from(get_args(Reach)))
def test_the_probability_meets_the_target(static: set[int], where: float, reach: Reach) -> None:
    partition = LayerPartition(24, tuple(sorted(static)))
    target = len(static) + where * (24 - len(static))
    probability = skip_probability(partition, target, reach)
    assert expected_layers(partition, probability, reach) == pytest.approx(target, abs=1e-6)


def test_targets_out_of_reach() -> None:
    assert skip_probability(PARTITION, 9.5) == 0.0
    assert skip_probability(PARTITION, 3.0) == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="at least 3 layers, the static layers") as caught:
        skip_probability(PARTITION, 2.9)
    assert caught.value.hint is not None and "--budgets and analyze ablation --layers: 3 or more" in caught.value.hint
    assert "calibrate --target-layers sets to 3 or more" in caught.value.hint


def plans(
    backbone: TinyBackbone, suite: TinyReach, seed: int, episode: int, count: int = 6, reach: Reach = "segment"
) -> list[list[int]]:
    observation = suite.make().reset(suite.episodes("test", 1)[0])
    inputs, schedule = backbone.encode([observation]), RandomSkipSchedule(PARTITION, 0.5, seed=seed, reach=reach)
    schedule.begin_episode(episode)
    with torch.inference_mode():
        return [forward(backbone, LayerState.of(inputs), schedule).layers_run for _ in range(count)]


def test_coins_depend_on_both_seeds(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    assert plans(backbone, suite, 1, 5) == plans(backbone, suite, 1, 5)
    assert plans(backbone, suite, 1, 5) != plans(backbone, suite, 2, 5)
    assert plans(backbone, suite, 1, 5) != plans(backbone, suite, 1, 6)


def test_the_realised_mean_is_the_target(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> None:
    ran = plans(tiny_backbone(), tiny_suite(), 0, 0, count=600)
    assert np.mean([len(layers) for layers in ran]) == pytest.approx(4.625, abs=0.2)
    assert all({0, 3, 7} <= set(layers) for layers in ran)
    assert [0, 2, 3, 7] not in ran, "a skip jumps to the next static layer, never over a single one"


def test_layers_are_left_out_one_by_one(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> None:
    """3 + 5 / 2 = 5.5 executed layers, and every one of the 2^5 sets of dynamic layers occurs."""
    ran = plans(tiny_backbone(), tiny_suite(), 0, 0, count=600, reach="layer")
    assert np.mean([len(layers) for layers in ran]) == pytest.approx(5.5, abs=0.2)
    assert all({0, 3, 7} <= set(layers) for layers in ran)
    assert len(set(map(tuple, ran))) == 32


def test_a_layer_left_out_is_not_executed(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    inputs = backbone.encode([suite.make().reset(suite.episodes("test", 1)[0])])
    with torch.inference_mode():
        trace = forward(backbone, LayerState.of(inputs), RandomSkipSchedule(PARTITION, 1.0, reach="layer"))
    assert trace.layers_run == [0, 3, 7]
    assert trace.jumps == [(1, 2), (2, 3), (4, 5), (5, 6), (6, 7)]


EXITS = (2, 3, 5)


@pytest.fixture
def ladder() -> ExitLadder:
    return ExitLadder(ExitModules(LayerPartition(8, (0, 1)), EXITS, ExitSizes(16, 4, 3, adapter_rank=4)))


def test_expected_exit_by_hand() -> None:
    """At p = 1/2: 2/2 + 3/4 + 5/8 + 8/8 = 3.375."""
    assert expected_exit(EXITS, 8, 0.5) == 3.375
    assert (expected_exit(EXITS, 8, 0.0), expected_exit(EXITS, 8, 1.0)) == (8, 2)


@given(st.sets(st.integers(1, 23), min_size=1), st.floats(0, 1))
def test_the_exits_probability_meets_the_target(layers: set[int], where: float) -> None:
    exits = sorted(layers)
    target = exits[0] + where * (24 - exits[0])
    assert expected_exit(exits, 24, exit_probability(exits, 24, target)) == pytest.approx(target, abs=1e-6)


def test_targets_out_of_reach_of_exits() -> None:
    assert exit_probability(EXITS, 8, 9.5) == 0.0
    with pytest.raises(ConfigError, match="at least 2 layers, those before the first exit"):
        exit_probability(EXITS, 8, 1.9)


def exit_plans(backbone: TinyBackbone, suite: TinyReach, ladder: ExitLadder, seed: int, count: int) -> list[int]:
    inputs = backbone.encode([suite.make().reset(suite.episodes("test", 1)[0])])
    schedule = RandomExits(ladder, 0.5, seed=seed)
    schedule.memory = torch.zeros(1, ladder.sizes.memory)
    schedule.begin_episode(7)
    with torch.inference_mode():
        return [len(forward(backbone, LayerState.of(inputs), schedule).layers_run) for _ in range(count)]


def test_random_exits_have_the_expected_mean(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach], ladder: ExitLadder
) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    ran = exit_plans(backbone, suite, ladder, 0, 600)
    assert set(ran) == {*EXITS, 8}
    assert np.mean(ran) == pytest.approx(3.375, abs=0.25)
    assert exit_plans(backbone, suite, ladder, 0, 20) == ran[:20]
    assert exit_plans(backbone, suite, ladder, 1, 20) != ran[:20]
