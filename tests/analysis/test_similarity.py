from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dyslctl.analysis.similarity import Without, rank_correlation, sensitivity
from dyslctl.jobs.episodes import EpisodeRecord
from dyslctl.policy import full_policy

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach


def test_one_layer_is_left_out(backbone: TinyBackbone, suite: TinyReach) -> None:
    policy = Without(3)(full_policy(backbone, 2))
    policy.reset()
    policy.select_action(suite.make().reset(suite.episodes("test", 1)[0]))
    assert policy.last.layers == (0, 1, 2, 4, 5, 6, 7) and policy.last.jumps == ((3, 4),)


def test_sensitivity_and_rank_by_hand(make_record: Callable[..., EpisodeRecord]) -> None:
    full = [make_record(index) for index in range(4)]

    def solved(count: int) -> list[EpisodeRecord]:
        return [make_record(index, index < count) for index in range(4)]

    layers = sensitivity([0.2, 0.9, 0.5], full, {0: solved(0), 1: solved(4), 2: solved(2)})
    assert [layer.success.losses for layer in layers] == [4, 0, 2]
    assert rank_correlation(layers) == 1.0
    assert rank_correlation(sensitivity([0.2, 0.9], full, {0: solved(4), 1: solved(4)})) is None
