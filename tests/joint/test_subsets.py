"""What exits learn from beside the full tokens is what ``dysl+specprune`` shows them at inference."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from dyslctl import methods
from dyslctl.dysl.exit_policy import ExitSettings
from dyslctl.dysl.exit_schedule import ExitLadder, FixedExit
from dyslctl.dysl.exit_training import exit_views
from dyslctl.dysl.exits import ExitModules, ExitSizes
from dyslctl.dysl.partition import LayerPartition, tail
from dyslctl.dysl.query_layout import query_tokens
from dyslctl.engine import forward
from dyslctl.joint.policy import JointPolicy
from dyslctl.joint.schedule import JointSchedule
from dyslctl.joint.subsets import ALPHAS, MODES, Subset, draw_subsets, subset_views
from dyslctl.method_assets import Assets, Setup
from dyslctl.pruning.settings import PruningSettings
from dyslctl.pruning.specprune import Outlook
from dyslctl.types import LayerInputs, LayerState, Observation

if TYPE_CHECKING:
    from tests.tiny import TinyBackbone

EXITS = (4, 6)
COARSE, FINE = Subset(0.6, "coarse"), Subset(1.0, "fine")
PRUNED = PruningSettings(local_coarse=10, local_fine=200)
"""Of four visual tokens one in each local layer where the motion is coarse, three where it is fine."""
MEMORY = torch.linspace(-1, 1, 4 * 13).view(4, 13)


@dataclass(frozen=True)
class Exits:
    modules: ExitModules
    settings: ExitSettings
    execute_horizon: int = 2


@pytest.fixture
def backbone(tiny_backbone: type[TinyBackbone]) -> TinyBackbone:
    return tiny_backbone()


@pytest.fixture
def inputs(backbone: TinyBackbone) -> LayerInputs:
    """Four samples of fifteen tokens, four of them visual."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (4, 8, 8, 3)).astype(np.uint8)
    places = rng.uniform(-1, 1, (4, 2)).astype(np.float32)
    return backbone.encode(
        [Observation({"agent": image}, "go and reach blue", at) for image, at in zip(images, places, strict=True)]
    )


def exits() -> ExitModules:
    return ExitModules(tail(LayerPartition(8, (0, 1, 2, 3))), EXITS, ExitSizes(16, 4, 3, adapter_rank=4)).eval()


def one(inputs: LayerInputs, row: int) -> LayerInputs:
    return LayerInputs(*(column[[row]] for column in (inputs.hidden, inputs.positions, inputs.kinds)))


def test_budgets_that_cover_everything_are_the_plain_views_bit_for_bit(
    backbone: TinyBackbone, inputs: LayerInputs
) -> None:
    everything = [Subset(20.0, mode) for mode in ("coarse", "fine", "coarse", "fine")]
    plain = exit_views(backbone, inputs, MEMORY, EXITS)
    found = subset_views(backbone, inputs, MEMORY, EXITS, everything, PruningSettings(layer_share=1.0))
    for column in ("hidden", "positions", "kinds", "memory"):
        assert torch.equal(getattr(found, column), getattr(plain, column))


@pytest.mark.parametrize("subset", [COARSE, FINE])
def test_views_are_what_the_policys_own_schedule_shows_the_exits_bit_for_bit(
    backbone: TinyBackbone, inputs: LayerInputs, subset: Subset
) -> None:
    """For the same outlook: what a full pass over the sample found, in that mode, with no patch changed."""
    modules, settings = exits(), replace(PRUNED, alpha=subset.alpha)
    having = Assets(modules.partition, bundles={"dysl": Exits(modules, ExitSettings(0.0))})
    policy = methods.build("dysl+specprune", Setup(backbone, 2, assets=having, pruning=settings))
    assert isinstance(policy, JointPolicy)
    sample, tokens = one(inputs, 2), policy.schedule.tokens
    views = subset_views(backbone, sample, MEMORY[:1], EXITS, [subset], PRUNED)
    with torch.no_grad():
        forward(backbone, LayerState.of(sample), tokens)
        assert tokens.found is not None
        tokens.outlook = Outlook(tokens.found, subset.mode, (np.empty(0, np.int64),))
        for index, layer in enumerate(EXITS):
            leave = FixedExit(ExitLadder(modules), layer)
            leave.memory = MEMORY[:1]
            trace = forward(backbone, LayerState.of(sample), JointSchedule(leave, tokens))
            state = trace.resume_state
            assert state is not None and trace.resume_layer == layer
            assert trace.tokens[:2] == [15, 15] and max(trace.tokens[2:]) < 15, "it prunes"
            state.select(query_tokens(state))
            assert torch.equal(views.at(index).hidden, state.hidden)
            assert torch.equal(views.positions, state.positions) and torch.equal(views.kinds, state.kinds)


def test_samples_side_by_side_keep_their_own_subsets(backbone: TinyBackbone, inputs: LayerInputs) -> None:
    subsets = [COARSE, FINE, FINE, COARSE]
    together = subset_views(backbone, inputs, MEMORY, EXITS, subsets, PRUNED)
    plain = exit_views(backbone, inputs, MEMORY, EXITS)
    assert together.hidden.shape == plain.hidden.shape, "query tokens only"
    for row, subset in enumerate(subsets):
        alone = subset_views(backbone, one(inputs, row), MEMORY[[row]], EXITS, [subset], PRUNED)
        torch.testing.assert_close(together.rows(torch.tensor([row])).hidden, alone.hidden)
        assert torch.equal(together.memory[row], alone.memory[0])
    assert ((together.hidden - plain.hidden).abs().amax((1, 2, 3)) > 1e-3).all()


def test_what_a_head_remembered_stays_beside_its_sample(backbone: TinyBackbone, inputs: LayerInputs) -> None:
    remembered = replace(inputs, history=torch.arange(12.0).view(4, 3))
    views = subset_views(backbone, remembered, MEMORY, EXITS, [COARSE] * 4)
    assert views.history is remembered.history


def test_layers_see_what_they_are_conditioned_on(tiny_backbone: type[TinyBackbone], inputs: LayerInputs) -> None:
    """One number a sample, added by every layer; the latents of the others do not reach it."""

    class Conditioned(tiny_backbone):  # type: ignore[misc, valid-type]
        def run_layer(self, layer: int, state: LayerState) -> torch.Tensor:
            hidden: torch.Tensor = super().run_layer(layer, state) + state.conditioning["shift"][:, None, None]
            return hidden

    backbone, shift = Conditioned(), torch.tensor([0.0, 1.0, 2.0, 3.0])
    conditioned = replace(inputs, conditioning={"shift": shift})
    views = subset_views(backbone, conditioned, MEMORY, EXITS, [FINE] * 4, PRUNED)
    for row in range(4):
        sample = replace(one(inputs, row), conditioning={"shift": shift[[row]]})
        alone = subset_views(backbone, sample, MEMORY[[row]], EXITS, [FINE], PRUNED)
        torch.testing.assert_close(views.rows(torch.tensor([row])).hidden, alone.hidden)
    plain = subset_views(tiny_backbone(), inputs, MEMORY, EXITS, [FINE] * 4, PRUNED)
    moved = (views.hidden - plain.hidden).abs().amax((1, 2, 3))
    assert float(moved[0]) < 1e-5 and (moved[1:] > 0.5).all()


def test_subsets_are_drawn_evenly_and_from_the_generator_alone() -> None:
    drawn = draw_subsets(np.random.default_rng(3), 6000)
    assert drawn == draw_subsets(np.random.default_rng(3), 6000) != draw_subsets(np.random.default_rng(4), 6000)
    counts = Counter(drawn)
    assert set(counts) == {Subset(alpha, mode) for alpha in ALPHAS for mode in MODES}
    assert all(abs(count - 1000) < 150 for count in counts.values())
