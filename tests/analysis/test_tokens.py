from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dyslctl.analysis.tokens import trace
from dyslctl.policy import full_policy
from dyslctl.pruning.settings import PRUNING, PruningSettings
from dyslctl.pruning.specprune_policy import SpecPrunePolicy
from dyslctl.report.figures.tokens import dimmed
from dyslctl.types import LayerState

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone, TinyReach


def test_what_is_retained_and_how_much_of_it_matters(backbone: TinyBackbone, suite: TinyReach) -> None:
    """Four patches, of which one counts as important (.8 of 30 of 256)."""
    policy = SpecPrunePolicy(backbone, PruningSettings(similarity=-1.0, layer_share=0.5), suite.execute_horizon)
    found = trace(policy, suite, suite.episodes("test", 1)[0])
    first, *later = found.moments
    assert (first.kept, first.recall, first.carried, first.retained) == (4, 1.0, None, ((0, 1, 2, 3),))
    assert found.tokens == (4,) and found.important == 1
    assert len(found.frames) == len(found.moments) == len(found.entropies) and found.entropies.shape[1] == 8
    assert all(1 <= moment.kept <= moment.kept_first <= 3 for moment in later)
    assert all(moment.kept == len(moment.retained[0]) for moment in later)
    assert {moment.recall for moment in later} <= {0.0, 1.0} and all(m.recall <= m.recall_first for m in later)
    assert {moment.carried for moment in later} <= {0.0, 1.0}
    assert (found.entropies > 0).all() and (found.entropies <= math.log(4) + 1e-6).all()


def test_a_policy_acts_as_if_nobody_watched(backbone: TinyBackbone, suite: TinyReach, play: Any) -> None:
    spec = suite.episodes("test", 1)[0]
    found = trace(SpecPrunePolicy(backbone, PRUNING, 2), suite, spec)
    ((*alone,),) = play(SpecPrunePolicy(backbone, PRUNING, 2), suite, [spec])
    assert len(found.moments) == len(alone)
    assert [moment.kept for moment in found.moments] == [report.tokens[-1] - 9 for _, report in alone]


def test_whoever_prunes_nothing_retains_everything(backbone: TinyBackbone, suite: TinyReach) -> None:
    found = trace(full_policy(backbone, 2), suite, suite.episodes("test", 1)[0])
    assert {(moment.kept, moment.kept_first, moment.recall) for moment in found.moments} == {(4, 4, 1.0)}


def test_important_is_what_a_full_pass_attends_to(tiny_backbone: type[TinyBackbone], suite: TinyReach) -> None:
    """Patch 2, at position 3, has all the attention; the policy keeps it."""

    class Staring(tiny_backbone):  # type: ignore[misc, valid-type]
        def attention_rows(self, layer: int, state: LayerState, queries: torch.Tensor) -> torch.Tensor:
            rows = (state.positions == 3).float()
            return rows[:, None, None].expand(-1, 1, queries.shape[1], -1)

    policy = SpecPrunePolicy(Staring(), PruningSettings(similarity=-1.0, layer_share=0.1), 2)
    found = trace(policy, suite, suite.episodes("test", 1)[0])
    assert {moment.recall for moment in found.moments} == {1.0} and np.allclose(found.entropies, 0)
    assert {moment.retained for moment in found.moments[1:]} == {((2,),)}


def test_dropped_patches_are_dark() -> None:
    """Four patches on five by four pixels: the middle row goes with the upper ones."""
    image = np.full((5, 4, 3), 100, np.uint8)
    found = dimmed(image, [0, 3], 4)[..., 0]
    assert found.tolist() == [[100, 100, 25, 25]] * 3 + [[25, 25, 100, 100]] * 2
