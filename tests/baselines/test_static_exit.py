from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyslctl.baselines.static_exit import EpisodeExit, nearest_exit
from dyslctl.dysl.exit_schedule import ExitLadder
from dyslctl.dysl.exits import ExitModules, ExitSizes
from dyslctl.dysl.partition import LayerPartition
from dyslctl.engine import forward
from dyslctl.errors import ConfigError
from dyslctl.types import LayerState

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach

LADDER = ExitLadder(ExitModules(LayerPartition(8, (0, 1)), (2, 3, 5), ExitSizes(16, 4, 3, adapter_rank=4)))


@pytest.mark.parametrize(
    ("target", "layer"),
    [(1.6, 2), (2.0, 2), (2.5, 2), (2.51, 3), (4.0, 3), (4.1, 5), (6.5, 5), (6.6, 8), (8.0, 8), (11.0, 8)],
)
def test_the_nearest_exit_and_of_two_the_cheaper(target: float, layer: int) -> None:
    assert nearest_exit(LADDER, target) == layer


@given(st.floats(1.6, 9), st.floats(0, 4))
def test_more_layers_never_give_an_earlier_exit(target: float, more: float) -> None:
    assert nearest_exit(LADDER, target) <= nearest_exit(LADDER, target + more)


@pytest.mark.parametrize("target", [1.5, 0.0])
def test_fewer_layers_than_the_first_exit_runs_are_refused(target: float) -> None:
    with pytest.raises(ConfigError, match=f"the first exit runs 2 layers, but {target:g} were asked for") as caught:
        nearest_exit(LADDER, target)
    assert caught.value.hint is not None and "--budgets and analyze ablation --layers: 2 or more" in caught.value.hint


@torch.inference_mode()
def layers(backbone: TinyBackbone, suite: TinyReach, seed: int, episode: int, inferences: int = 3) -> list[int]:
    inputs = backbone.encode([suite.make().reset(suite.episodes("test", 1)[0])])
    schedule = EpisodeExit(LADDER, seed=seed)
    schedule.memory = torch.zeros(1, 13)
    schedule.begin_episode(episode)
    return [len(forward(backbone, LayerState.of(inputs), schedule).layers_run) for _ in range(inferences)]


def test_one_exit_for_an_episode_and_all_exits_over_many(
    tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]
) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    episodes = [layers(backbone, suite, 0, episode) for episode in range(60)]
    assert all(len(set(ran)) == 1 for ran in episodes)
    drawn = [ran[0] for ran in episodes]
    # 20 expected of each, standard deviation 3.7.
    assert set(drawn) == {2, 3, 5} and min(np.unique(drawn, return_counts=True)[1]) > 5


def test_the_draw_depends_on_both_seeds(tiny_backbone: type[TinyBackbone], tiny_suite: type[TinyReach]) -> None:
    backbone, suite = tiny_backbone(), tiny_suite()
    one, again, other = ([layers(backbone, suite, seed, e, 1) for e in range(20)] for seed in (0, 0, 1))
    assert one == again != other
